package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;

/** Files that are there as a whole or not at all, owner-only, on disk before a call returns. */
public final class Storage {
  private Storage() {}

  /** Makes a folder of this device's alone, and locks it until the process ends. */
  public static FileLock own(Path folder) {
    try {
      Files.createDirectories(folder);
      if (posix(folder)) {
        Files.setPosixFilePermissions(folder, PosixFilePermissions.fromString("rwx------"));
      }
      Path path = folder.resolve("lock");
      FileChannel channel =
          FileChannel.open(path, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
      FileLock lock = channel.tryLock();
      if (lock == null) {
        throw new IOException("another agent uses " + folder);
      }
      return lock;
    } catch (IOException | OverlappingFileLockException error) {
      throw new TacitException(Reason.FAILED, "the device's folder can't be used", error);
    }
  }

  /** Writes a file beside, syncs it, renames it, syncs the folder. */
  public static void replace(Path path, byte[] data) {
    Path part = path.resolveSibling(path.getFileName() + ".part");
    try {
      Files.deleteIfExists(part);
      if (posix(path.toAbsolutePath().getParent())) {
        Files.createFile(
            part,
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------")));
      } else {
        Files.createFile(part);
      }
      try (FileChannel out = FileChannel.open(part, StandardOpenOption.WRITE)) {
        ByteBuffer buffer = ByteBuffer.wrap(data);
        while (buffer.hasRemaining()) {
          out.write(buffer);
        }
        out.force(true);
      }
      Files.move(part, path, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      synced(path.toAbsolutePath().getParent());
    } catch (IOException error) {
      throw new TacitException(Reason.FAILED, "the device's folder can't be written", error);
    }
  }

  private static void synced(Path folder) throws IOException {
    try (FileChannel channel = FileChannel.open(folder, StandardOpenOption.READ)) {
      channel.force(true);
    }
  }

  private static boolean posix(Path folder) {
    return folder.getFileSystem().supportedFileAttributeViews().contains("posix");
  }
}
