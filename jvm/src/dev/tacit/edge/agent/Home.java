package dev.tacit.edge.agent;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.secagg.Storage;
import dev.tacit.edge.wire.Json;
import java.io.IOException;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;

/**
 * The device's folder: its keys, whom it trusts, and what it must remember.
 *
 * <p>Private keys are made here and never leave; every file is its owner's only, and whole or not
 * there. What is pinned comes from the bundle, and nothing from the network changes it. Files are
 * in the clear: on Android the folder is the app's own, and its keys would be in the keystore.
 */
public final class Home {
  private static final String[] PINNED = {
    "population", "gateway", "ca", "authority", "coordinator"
  };

  public final Path path;
  /** Held until the process ends. */
  final FileLock lock;

  /** The folder, made if it isn't there, for this process alone. */
  public Home(Path path) {
    this.path = path;
    lock = Storage.own(path);
    Storage.own(path.resolve("vault"));
    Storage.own(path.resolve("blobs"));
  }

  /** A device that is enrolled: who it is, and whom it trusts. */
  public static final class Enrolled {
    public final long client;
    public final String population;
    public final String gateway;
    public final String ca;
    public final byte[] authority;
    public final byte[] coordinator;

    Enrolled(long client, Map<String, Object> said) {
      this.client = client;
      population = text(said, "population");
      gateway = text(said, "gateway");
      ca = text(said, "ca");
      authority = key(said, "authority");
      coordinator = key(said, "coordinator");
    }

    private static byte[] key(Map<String, Object> said, String name) {
      byte[] found = Bytes.unhex(text(said, name));
      if (found.length != 32) {
        throw new TacitException(Reason.FAILED, name + " must be a key of 32 bytes in hex");
      }
      return found;
    }
  }

  static String text(Map<String, Object> said, String name) {
    Object found = said.get(name);
    if (!(found instanceof String)) {
      throw new TacitException(Reason.FAILED, name + " must be a text");
    }
    return (String) found;
  }

  /** A JSON file, or null if it isn't there. */
  static Map<String, Object> read(Path path) {
    if (!Files.exists(path)) {
      return null;
    }
    try {
      return Json.object(Json.read(Files.readAllBytes(path)));
    } catch (IOException | TacitException error) {
      throw new TacitException(Reason.FAILED, path.getFileName() + " can't be read", error);
    }
  }

  /**
   * Who this device is.
   *
   * @throws TacitException FAILED: it isn't enrolled
   */
  public Enrolled enrolled() {
    Map<String, Object> found = read(path.resolve("device.json"));
    if (found == null) {
      throw new TacitException(Reason.FAILED, "this device isn't enrolled");
    }
    return new Enrolled(((Json.Number) found.get("client")).integer(), found);
  }

  void enrol(long client, Map<String, Object> bundle) {
    Map<String, Object> kept = new TreeMap<>();
    for (String name : PINNED) {
      kept.put(name, bundle.get(name));
    }
    kept.put("client", Json.Number.of(client));
    kept.put("version", Json.Number.of(1));
    Storage.replace(path.resolve("device.json"), Json.write(kept));
  }

  /** The key that signs every answer, made if there is none. */
  public Identity identity() {
    Path file = path.resolve("identity.key");
    try {
      if (!Files.exists(file)) {
        Identity made = Identity.generate();
        Storage.replace(file, Bytes.join(made.seed(), made.publicKey()));
      }
      byte[] held = Files.readAllBytes(file);
      return new Identity(Bytes.slice(held, 0, 32), Bytes.slice(held, 32, 32));
    } catch (IOException error) {
      throw new TacitException(Reason.FAILED, "the device's key can't be read", error);
    }
  }

  /** The private key and the certificates of TLS, PEM. */
  String certificate() {
    try {
      byte[] held = Files.readAllBytes(path.resolve("tls.pem"));
      return new String(held, StandardCharsets.US_ASCII);
    } catch (IOException error) {
      throw new TacitException(Reason.FAILED, "the device's certificate can't be read", error);
    }
  }

  void certify(byte[] pem) {
    Storage.replace(path.resolve("tls.pem"), pem);
  }
}
