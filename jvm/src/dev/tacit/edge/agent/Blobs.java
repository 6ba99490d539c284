package dev.tacit.edge.agent;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.function.LongFunction;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Downloads, by their SHA-256, in a folder; one that broke off goes on where it was.
 *
 * <p>What is read is what was asked for. At most {@link #KEPT} blobs are kept, the newest.
 */
final class Blobs {
  private static final int KEPT = 8;
  private static final int TRIES = 3;

  private final Path folder;
  private final long largest;

  Blobs(Path folder, long largest) {
    this.folder = folder;
    this.largest = largest;
  }

  /**
   * A blob, downloaded if it isn't here.
   *
   * @param source gives its bytes from an offset on; its exceptions leave what came
   * @throws TacitException MALFORMED: it is another one, or larger than allowed
   */
  byte[] fetch(byte[] digest, long size, LongFunction<Iterator<byte[]>> source) {
    if (digest.length != 32 || size < 0 || size > largest) {
      throw TacitException.malformed("a blob of " + size + " bytes is more than is allowed");
    }
    Path path = folder.resolve(Bytes.hex(digest) + ".blob");
    Path part = folder.resolve(Bytes.hex(digest) + ".part");
    try {
      for (int i = 0; i < TRIES; i++) {
        if (Files.exists(path)) {
          byte[] held = Files.readAllBytes(path);
          if (Arrays.equals(Crypto.sha256(held), digest)) {
            return held;
          }
          Files.delete(path);
        }
        more(part, size, source);
        if (Files.size(part) == size) {
          Files.move(part, path, StandardCopyOption.ATOMIC_MOVE);
          forget(path);
        }
      }
    } catch (IOException error) {
      throw new TacitException(Reason.FAILED, "the device's folder can't be written", error);
    }
    throw TacitException.malformed("a blob came as another one");
  }

  private static void more(Path part, long size, LongFunction<Iterator<byte[]>> source)
      throws IOException {
    if (!Files.exists(part)) {
      Files.createFile(part);
    }
    long have = Files.size(part);
    if (have > size) {
      try (FileChannel file = FileChannel.open(part, StandardOpenOption.WRITE)) {
        file.truncate(0);
      }
      have = 0;
    }
    try (OutputStream out = Files.newOutputStream(part, StandardOpenOption.APPEND)) {
      for (Iterator<byte[]> chunks = source.apply(have); have < size && chunks.hasNext(); ) {
        byte[] chunk = chunks.next();
        have += chunk.length;
        if (have > size) {
          throw TacitException.malformed("a blob is longer than was announced");
        }
        out.write(chunk);
      }
    }
  }

  /** Removes a blob that isn't needed again. */
  void drop(byte[] digest) {
    try {
      Files.deleteIfExists(folder.resolve(Bytes.hex(digest) + ".blob"));
    } catch (IOException error) {
      throw new TacitException(Reason.FAILED, "the device's folder can't be written", error);
    }
  }

  private void forget(Path newest) throws IOException {
    try (Stream<Path> paths = Files.list(folder)) {
      List<Path> kept =
          paths
              .filter(path -> path.toString().endsWith(".blob") && !path.equals(newest))
              .sorted((a, b) -> Long.compare(a.toFile().lastModified(), b.toFile().lastModified()))
              .collect(Collectors.toList());
      for (int i = 0; i < kept.size() - KEPT + 1; i++) {
        Files.deleteIfExists(kept.get(i));
      }
    }
  }
}
