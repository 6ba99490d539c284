package dev.tacit.edge.train;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.policy.Manifest;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;

/**
 * The device's records: an {@code .npz} with {@code inputs} (float32) and {@code targets} (int64).
 *
 * <p>The file of `tacit-edge`. Refused by types and shapes, never by values, and without naming
 * any of them.
 */
public final class Records {
  private static final Pattern HEADER =
      Pattern.compile(
          "\\{'descr': '([^']*)', 'fortran_order': False, 'shape': \\(([0-9, ]*)\\), \\}\\s*");

  public final float[] inputs;
  public final long[] targets;
  private final int[] each;

  /** Records in memory: inputs row after row, of this shape each. */
  public Records(float[] inputs, long[] targets, int[] each) {
    this.inputs = inputs;
    this.targets = targets;
    this.each = each.clone();
    int size = Arrays.stream(each).reduce(1, (a, b) -> a * b);
    if (inputs.length != targets.length * size) {
      throw unreadable(null);
    }
  }

  /** How many. */
  public int size() {
    return targets.length;
  }

  /**
   * Reads a file.
   *
   * @throws TacitException UNSUPPORTED: it can't be read, or isn't as above
   */
  public static Records load(Path path) {
    try (ZipFile file = new ZipFile(path.toFile())) {
      Array inputs = new Array(file, "inputs", "<f4");
      Array targets = new Array(file, "targets", "<i8");
      float[] x = new float[inputs.data.remaining() / 4];
      inputs.data.asFloatBuffer().get(x);
      long[] y = new long[targets.data.remaining() / 8];
      targets.data.asLongBuffer().get(y);
      if (inputs.shape.length == 0 || targets.shape.length != 1 || inputs.shape[0] != y.length) {
        throw unreadable(null);
      }
      return new Records(x, y, Arrays.copyOfRange(inputs.shape, 1, inputs.shape.length));
    } catch (IOException | IllegalArgumentException error) {
      throw unreadable(error);
    }
  }

  /**
   * Whether a graph takes these records, whose targets are classes.
   *
   * @throws TacitException UNSUPPORTED
   */
  public void fit(Manifest manifest) {
    if (!Arrays.equals(each, manifest.inputs.get(1).each())) {
      throw unreadable(null);
    }
  }

  /** One array of the file. */
  private static final class Array {
    final ByteBuffer data;
    final int[] shape;

    Array(ZipFile file, String name, String dtype) throws IOException {
      ZipEntry entry = file.getEntry(name + ".npy");
      if (entry == null || entry.getSize() > 1 << 30) {
        throw unreadable(null);
      }
      byte[] all = file.getInputStream(entry).readAllBytes();
      ByteBuffer whole = ByteBuffer.wrap(all).order(ByteOrder.LITTLE_ENDIAN);
      boolean npy = all.length > 10 && all[0] == (byte) 0x93 && all[6] == 1;
      int length = npy ? whole.getShort(8) & 0xFFFF : -1;
      if (length < 0 || 10 + length > all.length) {
        throw unreadable(null);
      }
      String said = new String(all, 10, length, StandardCharsets.US_ASCII);
      Matcher header = HEADER.matcher(said);
      if (!header.matches() || !header.group(1).equals(dtype)) {
        throw unreadable(null);
      }
      shape =
          Arrays.stream(header.group(2).split(","))
              .map(String::trim)
              .filter(part -> !part.isEmpty())
              .mapToInt(Integer::parseInt)
              .toArray();
      whole.position(10 + length);
      data = whole.slice().order(ByteOrder.LITTLE_ENDIAN);
    }
  }

  private static TacitException unreadable(Exception cause) {
    return new TacitException(
        Reason.UNSUPPORTED, "the device's records can't be read, or don't fit the task", cause);
  }
}
