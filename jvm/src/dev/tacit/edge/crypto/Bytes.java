package dev.tacit.edge.crypto;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;

/** Byte strings: hex, UTF-8, joining and cutting. */
public final class Bytes {
  public static final byte[] EMPTY = new byte[0];
  private static final char[] DIGITS = "0123456789abcdef".toCharArray();

  private Bytes() {}

  /** Lower-case hex. */
  public static String hex(byte[] data) {
    char[] out = new char[2 * data.length];
    for (int i = 0; i < data.length; i++) {
      out[2 * i] = DIGITS[(data[i] >> 4) & 15];
      out[2 * i + 1] = DIGITS[data[i] & 15];
    }
    return new String(out);
  }

  /**
   * Bytes of hex.
   *
   * @throws IllegalArgumentException it isn't hex
   */
  public static byte[] unhex(String text) {
    if (text.length() % 2 != 0) {
      throw new IllegalArgumentException("hex has an even number of digits");
    }
    byte[] out = new byte[text.length() / 2];
    for (int i = 0; i < out.length; i++) {
      int high = Character.digit(text.charAt(2 * i), 16);
      int low = Character.digit(text.charAt(2 * i + 1), 16);
      if (high < 0 || low < 0 || text.charAt(2 * i) > 'f' || text.charAt(2 * i + 1) > 'f') {
        throw new IllegalArgumentException("not hex");
      }
      out[i] = (byte) (high << 4 | low);
    }
    return out;
  }

  /** UTF-8 of a string. */
  public static byte[] utf8(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  /** UTF-8 of a number in decimal. */
  public static byte[] decimal(long number) {
    return utf8(Long.toString(number));
  }

  /** The parts, one after the other. */
  public static byte[] join(byte[]... parts) {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    for (byte[] part : parts) {
      out.write(part, 0, part.length);
    }
    return out.toByteArray();
  }

  /** A copy of {@code size} bytes from {@code start} on. */
  public static byte[] slice(byte[] data, int start, int size) {
    byte[] out = new byte[size];
    System.arraycopy(data, start, out, 0, size);
    return out;
  }

  /** Four bytes, little-endian, as a number. */
  public static long u32(byte[] data, int at) {
    return (data[at] & 255L)
        | (data[at + 1] & 255L) << 8
        | (data[at + 2] & 255L) << 16
        | (data[at + 3] & 255L) << 24;
  }

  /** Writes a number in four bytes, little-endian. */
  public static void put32(byte[] data, int at, long value) {
    data[at] = (byte) value;
    data[at + 1] = (byte) (value >> 8);
    data[at + 2] = (byte) (value >> 16);
    data[at + 3] = (byte) (value >> 24);
  }
}
