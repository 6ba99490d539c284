package dev.tacit.edge.crypto;

import java.security.GeneralSecurityException;
import javax.crypto.Cipher;
import javax.crypto.spec.IvParameterSpec;
import javax.crypto.spec.SecretKeySpec;

/**
 * Bytes that are a function of a 256-bit key: the keystream of AES-256-CTR.
 *
 * <p>From block 0 unless said otherwise. A key is for one purpose and one stream.
 */
public final class KeyedStream {
  private final Cipher cipher;

  /** The stream of a key of 32 bytes, from block 0. */
  public KeyedStream(byte[] key) {
    this(key, new byte[16]);
  }

  /** The stream of a key from a counter block of 16 bytes on. */
  public KeyedStream(byte[] key, byte[] block) {
    if (key.length != 32) {
      throw new IllegalArgumentException("a stream's key has 32 bytes");
    }
    try {
      cipher = Cipher.getInstance("AES/CTR/NoPadding");
      cipher.init(
          Cipher.ENCRYPT_MODE, new SecretKeySpec(key, "AES"), new IvParameterSpec(block));
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("this platform has no AES-CTR", error);
    }
  }

  /** The next {@code size} bytes. */
  public byte[] read(int size) {
    byte[] out = new byte[size];
    read(new byte[size], out, size);
    return out;
  }

  /**
   * The next {@code size} bytes into {@code out}, without making arrays.
   *
   * @param zeros at least that many of them
   * @param out where to
   * @param size how many
   */
  public void read(byte[] zeros, byte[] out, int size) {
    try {
      int made = cipher.update(zeros, 0, size, out, 0);
      if (made != size) {
        throw new IllegalStateException("the provider's AES-CTR holds back bytes of a stream");
      }
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("AES-CTR failed", error);
    }
  }

  /** The next {@code count} words of 16 bits, little-endian. */
  public int[] words16(int count) {
    byte[] data = read(2 * count);
    int[] out = new int[count];
    for (int i = 0; i < count; i++) {
      out[i] = (data[2 * i] & 255) | (data[2 * i + 1] & 255) << 8;
    }
    return out;
  }

  /** The next {@code count} words of 32 bits, little-endian, as bits of an int. */
  public int[] words32(int count) {
    byte[] data = read(4 * count);
    int[] out = new int[count];
    for (int i = 0; i < count; i++) {
      out[i] = (int) Bytes.u32(data, 4 * i);
    }
    return out;
  }

  /** The next {@code count} words of 64 bits, little-endian, as bits of a long. */
  public long[] words64(int count) {
    byte[] data = read(8 * count);
    long[] out = new long[count];
    for (int i = 0; i < count; i++) {
      out[i] = Bytes.u32(data, 8 * i) | Bytes.u32(data, 8 * i + 4) << 32;
    }
    return out;
  }
}
