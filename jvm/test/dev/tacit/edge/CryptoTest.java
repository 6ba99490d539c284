package dev.tacit.edge;

import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Agreement;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.crypto.KeyedStream;
import dev.tacit.edge.secagg.Secrets;
import java.util.Map;

/** Against keys.json. */
final class CryptoTest {
  private static final Map<String, Object> ALL = Check.vectors("keys.json");

  private CryptoTest() {}

  static void testDerive() {
    for (Object item : Check.list(ALL, "derive")) {
      Map<String, Object> one = dev.tacit.edge.wire.Json.object(item);
      byte[][] parts =
          Check.list(one, "parts").stream()
              .map(part -> Bytes.unhex((String) part))
              .toArray(byte[][]::new);
      Check.same("digest", Check.hex(one, "digest"), Crypto.derive((String) one.get("tag"), parts));
    }
  }

  static void testHkdf() {
    Map<String, Object> one = Check.object(ALL, "hkdf");
    byte[] found = Crypto.hkdf(Check.hex(one, "secret"), Check.hex(one, "info"));
    Check.same("key", Check.hex(one, "key"), found);
  }

  static void testSignatures() {
    Map<String, Object> one = Check.object(ALL, "ed25519");
    byte[] known = Check.hex(one, "public");
    byte[] statement = Check.hex(one, "statement");
    byte[] signature = Check.hex(one, "signature");
    Identity identity = new Identity(Check.hex(one, "seed"), known);
    Check.same("signature", signature, identity.sign(statement));
    Check.that("verifies", Identity.verify(known, signature, statement));
    signature[5] ^= 1;
    Check.that("doesn't verify", !Identity.verify(known, signature, statement));
    Check.that("short", !Identity.verify(known, new byte[63], statement));
    Identity made = Identity.generate();
    Check.that("a new one signs", Identity.verify(made.publicKey(), made.sign(known), known));
    Check.same("kept", made.publicKey(), new Identity(made.seed(), made.publicKey()).publicKey());
  }

  static void testAgreement() {
    Map<String, Object> one = Check.object(ALL, "x25519");
    Agreement own = new Agreement(Check.hex(one, "one"));
    Agreement other = new Agreement(Check.hex(one, "two"));
    byte[] due = Bytes.unhex((String) Check.list(one, "public").get(0));
    Check.same("public", due, own.publicKey());
    Check.same("secret", Check.hex(one, "secret"), own.exchange(other.publicKey()));
    for (Object low : Check.list(one, "low_order")) {
      byte[] point = Bytes.unhex((String) low);
      Check.refused("low order", Reason.MALFORMED, () -> own.exchange(point));
    }
  }

  static void testSeal() {
    Map<String, Object> one = Check.object(ALL, "seal");
    byte[] key = Check.hex(one, "key");
    byte[] associated = Check.hex(one, "associated");
    byte[] sealed = Check.hex(one, "sealed");
    Check.same("sealed", sealed, Crypto.seal(key, Check.hex(one, "plaintext"), associated));
    Check.same("open", Check.hex(one, "plaintext"), Crypto.open(key, sealed, associated));
    sealed[0] ^= 1;
    Check.refused("altered", Reason.MALFORMED, () -> Crypto.open(key, sealed, associated));
    Check.refused("cut", Reason.MALFORMED, () -> Crypto.open(key, new byte[3], associated));
  }

  static void testStream() {
    Map<String, Object> one = Check.object(ALL, "stream");
    KeyedStream stream = new KeyedStream(Check.hex(one, "key"));
    Check.same("first", Check.hex(one, "first"), stream.read(5));
    Check.same("then", Check.hex(one, "then"), stream.read(45));
  }

  static void testSessionKeys() {
    Map<String, Object> one = Check.object(ALL, "session");
    Map<String, Object> pair = Check.object(ALL, "x25519");
    Agreement own = new Agreement(Check.hex(pair, "one"));
    byte[] other = Bytes.unhex((String) Check.list(pair, "public").get(1));
    byte[] roster = Bytes.utf8("roster");
    Check.same(
        "self mask", Check.hex(one, "self_mask"), Secrets.selfMask(Check.hex(one, "seed"), "5e55"));
    Check.same(
        "pair mask",
        Check.hex(one, "pair_mask"),
        Secrets.pairMask(own, other, roster, Bytes.utf8("members"), 9, 3));
    Check.same("root", Check.hex(one, "root"), Secrets.channelRoot(own, other, "5e55", roster));
    Check.same(
        "channel key",
        Check.hex(one, "channel_key"),
        Secrets.channelKey(Check.hex(one, "from"), 3, 9));
    Check.same(
        "commitment",
        Check.hex(one, "commitment"),
        Secrets.commitment("5e55", 3, 9, 258, Check.ints(one.get("share")), 1, 5));
  }
}
