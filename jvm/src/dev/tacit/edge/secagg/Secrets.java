package dev.tacit.edge.secagg;

import dev.tacit.edge.crypto.Agreement;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.wire.Json;
import java.util.Map;
import java.util.TreeMap;

/** A device's secrets in a session, as its vault keeps them, and the keys that come from them. */
public final class Secrets {
  static final int COMMITMENT_BYTES = 16;

  public final String run;
  public final long round;
  public final long attempt;
  public final String purpose;
  public final String session;

  private final Map<String, byte[]> held = new TreeMap<>();

  /** Of a session that begins; nothing is held yet. */
  public Secrets(String run, long round, long attempt, String purpose, String session) {
    this.run = run;
    this.round = round;
    this.attempt = attempt;
    this.purpose = purpose;
    this.session = session;
  }

  /** The same with one more byte string; an empty one is forgotten. */
  public Secrets with(String name, byte[] value) {
    Secrets made = new Secrets(run, round, attempt, purpose, session);
    made.held.putAll(held);
    made.held.put(name, value);
    return made;
  }

  /** A byte string that is held; empty if it isn't. */
  public byte[] get(String name) {
    return held.getOrDefault(name, Bytes.EMPTY);
  }

  Agreement pair(String name) {
    return new Agreement(get(name));
  }

  /** As a vault keeps them. */
  public Map<String, Object> toJson() {
    Map<String, Object> out = new TreeMap<>();
    out.put("run", run);
    out.put("round", Json.Number.of(round));
    out.put("attempt", Json.Number.of(attempt));
    out.put("purpose", purpose);
    out.put("session", session);
    Map<String, Object> hex = new TreeMap<>();
    held.forEach((name, value) -> hex.put(name, Bytes.hex(value)));
    out.put("held", hex);
    return out;
  }

  /** What {@link #toJson} made. */
  public static Secrets fromJson(Map<String, Object> said) {
    Secrets made =
        new Secrets(
            (String) said.get("run"),
            ((Json.Number) said.get("round")).integer(),
            ((Json.Number) said.get("attempt")).integer(),
            (String) said.get("purpose"),
            (String) said.get("session"));
    Json.object(said.get("held")).forEach((k, v) -> made.held.put(k, Bytes.unhex((String) v)));
    return made;
  }

  /** A dealer's commitment to one kind of piece of a share. */
  public static byte[] commitment(
      String session, long dealer, long holder, int kind, int[] share, int from, int size) {
    byte[] place =
        Crypto.derive("share", Bytes.utf8(session + " " + dealer + " " + holder));
    byte[] data = new byte[4 * size];
    for (int i = 0; i < size; i++) {
      Bytes.put32(data, 4 * i, share[from + i]);
    }
    byte[] mark = {(byte) kind, (byte) (kind >> 8)};
    return Bytes.slice(Crypto.sha256(place, mark, data), 0, COMMITMENT_BYTES);
  }

  /** The key of a client's own mask. */
  public static byte[] selfMask(byte[] seed, String session) {
    return Crypto.derive("self-mask", seed, Bytes.utf8(session));
  }

  /** The key of the mask that two clients share; the smaller adds it. */
  public static byte[] pairMask(
      Agreement own, byte[] other, byte[] roster, byte[] members, long one, long two) {
    byte[] info =
        Crypto.derive(
            "pair-mask",
            roster,
            members,
            Bytes.decimal(Math.min(one, two)),
            Bytes.decimal(Math.max(one, two)));
    return own.agree(other, info);
  }

  /** What two clients derive the keys of their two ciphertexts from. */
  public static byte[] channelRoot(Agreement own, byte[] other, String session, byte[] roster) {
    return own.agree(other, Crypto.derive("channel", Bytes.utf8(session), roster));
  }

  /** The key of the one ciphertext from a client to another. */
  public static byte[] channelKey(byte[] root, long sender, long receiver) {
    return Crypto.derive("direction", root, Bytes.decimal(sender), Bytes.decimal(receiver));
  }
}
