package dev.tacit.edge.crypto;

import dev.tacit.edge.TacitException;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.spec.PKCS8EncodedKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;
import javax.crypto.KeyAgreement;

/** One party's key for agreeing on secrets: X25519 (RFC 7748) by the platform's provider. */
public final class Agreement {
  private static final byte[] PRIVATE = Bytes.unhex("302e020100300506032b656e04220420");
  private static final byte[] PUBLIC = Bytes.unhex("302a300506032b656e032100");
  private static final byte[] BASE = new byte[32];

  static {
    BASE[0] = 9;
  }

  private final byte[] scalar;
  private final byte[] publicKey;
  private final PrivateKey key;

  /** The pair of a scalar of 32 bytes before clamping; a secret. */
  public Agreement(byte[] scalar) {
    if (scalar.length != 32) {
      throw new IllegalArgumentException("a private key has 32 bytes");
    }
    this.scalar = scalar.clone();
    try {
      key =
          KeyFactory.getInstance("XDH")
              .generatePrivate(new PKCS8EncodedKeySpec(Bytes.join(PRIVATE, scalar)));
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("this platform has no X25519", error);
    }
    publicKey = exchange(BASE);
  }

  /** A new pair from the platform's CSPRNG. */
  public static Agreement generate() {
    return new Agreement(Crypto.random(32));
  }

  /** The scalar; a secret. */
  public byte[] scalar() {
    return scalar.clone();
  }

  /** The public half. */
  public byte[] publicKey() {
    return publicKey.clone();
  }

  /**
   * The shared secret, not yet fit to be a key.
   *
   * @throws TacitException MALFORMED: not 32 bytes, or a point of low order
   */
  public byte[] exchange(byte[] other) {
    if (other.length != 32) {
      throw TacitException.malformed("a public key has " + other.length + " bytes, not 32");
    }
    byte[] secret;
    try {
      PublicKey known =
          KeyFactory.getInstance("XDH")
              .generatePublic(new X509EncodedKeySpec(Bytes.join(PUBLIC, other)));
      KeyAgreement agreement = KeyAgreement.getInstance("XDH");
      agreement.init(key);
      agreement.doPhase(known, true);
      secret = agreement.generateSecret();
    } catch (GeneralSecurityException error) {
      throw new TacitException(
          TacitException.Reason.MALFORMED, "a public key is a point of low order", error);
    }
    // Providers differ in whether they refuse: RFC 7748, section 6.1.
    if (Arrays.equals(secret, new byte[32])) {
      throw TacitException.malformed("a public key is a point of low order");
    }
    return secret;
  }

  /** A key that both parties compute: HKDF of the shared secret. */
  public byte[] agree(byte[] other, byte[] info) {
    return Crypto.hkdf(exchange(other), info);
  }
}
