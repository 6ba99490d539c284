package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.wire.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Base64;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;

/**
 * A vault in a folder: one file for each run and purpose, replaced as a whole.
 *
 * <p>A file is written beside, synced, renamed over the old one, and the folder synced. The newest
 * session of its run and purpose is all that it holds. It isn't encrypted, its rights are the
 * owner's alone; what it held before is unlinked, not overwritten, which on flash is all that can
 * be done. An older copy that is put back isn't noticed. One process at a time: {@link Storage}
 * locks the folder.
 */
public final class FileVault implements Vault {
  private static final String ENDING = ".vault";

  private final Path folder;

  /** The vault of a folder that this process has locked. */
  public FileVault(Path folder) {
    this.folder = folder;
  }

  @Override
  public synchronized void open(Secrets secrets, Given answer) {
    Path path = path(secrets.run, secrets.purpose);
    if (Files.exists(path)) {
      Secrets last = Secrets.fromJson(Json.object(load(path).get("secrets")));
      boolean newer =
          secrets.round > last.round
              || secrets.round == last.round && secrets.attempt > last.attempt;
      if (!newer) {
        throw TacitException.protocol(
            "round=" + secrets.round + " attempt=" + secrets.attempt + " (" + secrets.purpose
                + ") was seen before");
      }
    }
    save(path, "advertised", secrets, answer);
  }

  @Override
  public synchronized Held read(String session) {
    Map<String, Object> found = find(session);
    if (found == null) {
      throw TacitException.protocol("session isn't one that this device is in");
    }
    return new Held(
        (String) found.get("phase"), Secrets.fromJson(Json.object(found.get("secrets"))));
  }

  @Override
  public synchronized void advance(
      String session, String before, String after, Secrets secrets, Given answer) {
    Map<String, Object> found = find(session);
    if (found == null || !before.equals(found.get("phase"))) {
      throw TacitException.protocol("the session isn't in the phase " + before);
    }
    save(path(secrets.run, secrets.purpose), after, secrets, answer);
  }

  @Override
  public synchronized byte[] answered(String session, String kind, byte[] request) {
    Map<String, Object> found = find(session);
    if (found == null) {
      return null;
    }
    Map<String, Object> said = Json.object(found.get("said"));
    boolean same = kind.equals(said.get("kind"));
    if (!same || !Arrays.equals(Bytes.unhex((String) said.get("request")), request)) {
      return null;
    }
    return Base64.getDecoder().decode((String) said.get("answer"));
  }

  private Path path(String run, String purpose) {
    byte[] name = Crypto.derive("vault", Bytes.utf8(run), Bytes.utf8(purpose));
    return folder.resolve(Bytes.hex(name).substring(0, 32) + ENDING);
  }

  private Map<String, Object> find(String session) {
    try (Stream<Path> paths = Files.list(folder)) {
      return paths
          .filter(path -> path.toString().endsWith(ENDING))
          .map(FileVault::load)
          .filter(held -> session.equals(Json.object(held.get("secrets")).get("session")))
          .findFirst()
          .orElse(null);
    } catch (IOException error) {
      throw failed(error);
    }
  }

  private static Map<String, Object> load(Path path) {
    try {
      return Json.object(Json.read(Files.readAllBytes(path)));
    } catch (IOException error) {
      throw failed(error);
    }
  }

  private static void save(Path path, String phase, Secrets secrets, Given answer) {
    Map<String, Object> given = new TreeMap<>();
    given.put("kind", answer.kind);
    given.put("request", Bytes.hex(answer.request));
    given.put("answer", Base64.getEncoder().encodeToString(answer.answer));
    Map<String, Object> whole = new TreeMap<>();
    whole.put("phase", phase);
    whole.put("secrets", secrets.toJson());
    whole.put("said", given);
    Storage.replace(path, Json.write(whole));
  }

  private static TacitException failed(IOException error) {
    return new TacitException(Reason.FAILED, "the device's vault can't be read", error);
  }
}
