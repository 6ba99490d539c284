package dev.tacit.edge.crypto;

import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.PKCS8EncodedKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;

/**
 * A device's long-lived signing key: Ed25519 (RFC 8032) by the platform's provider.
 *
 * <p>Needs a provider that has "Ed25519": JDK 15, Conscrypt on Android. No provider's API makes a
 * public key of a seed, so both halves are kept, and are checked to belong together.
 */
public final class Identity {
  public static final int SIGNATURE_BYTES = 64;
  private static final byte[] PRIVATE = Bytes.unhex("302e020100300506032b657004220420");
  private static final byte[] PUBLIC = Bytes.unhex("302a300506032b6570032100");

  private final byte[] seed;
  private final byte[] publicKey;
  private final PrivateKey key;

  /**
   * The identity of both its halves.
   *
   * @param seed the seed of RFC 8032, 32 bytes; a secret
   * @param publicKey 32 bytes
   */
  public Identity(byte[] seed, byte[] publicKey) {
    if (seed.length != 32 || publicKey.length != 32) {
      throw new IllegalArgumentException("both halves of a signing key have 32 bytes");
    }
    this.seed = seed.clone();
    this.publicKey = publicKey.clone();
    try {
      key =
          KeyFactory.getInstance("Ed25519")
              .generatePrivate(new PKCS8EncodedKeySpec(Bytes.join(PRIVATE, seed)));
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("this platform has no Ed25519", error);
    }
    byte[] probe = Bytes.utf8("tacit identity");
    if (!verify(publicKey, sign(probe), probe)) {
      throw new IllegalArgumentException("the halves of a signing key don't belong together");
    }
  }

  /** A new identity from the platform's CSPRNG. */
  public static Identity generate() {
    try {
      KeyPair pair = KeyPairGenerator.getInstance("Ed25519").generateKeyPair();
      return new Identity(
          last32(pair.getPrivate().getEncoded()), last32(pair.getPublic().getEncoded()));
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("this platform has no Ed25519", error);
    }
  }

  /** The seed; a secret. */
  public byte[] seed() {
    return seed.clone();
  }

  /** The public half. */
  public byte[] publicKey() {
    return publicKey.clone();
  }

  /** The signature of a statement, 64 bytes, deterministic. */
  public byte[] sign(byte[] statement) {
    try {
      Signature signature = Signature.getInstance("Ed25519");
      signature.initSign(key);
      signature.update(statement);
      return signature.sign();
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("Ed25519 failed", error);
    }
  }

  /** Whether a signature is that of a statement; false on wrong lengths and unusable keys. */
  public static boolean verify(byte[] publicKey, byte[] signature, byte[] statement) {
    if (publicKey.length != 32 || signature.length != SIGNATURE_BYTES) {
      return false;
    }
    try {
      PublicKey known =
          KeyFactory.getInstance("Ed25519")
              .generatePublic(new X509EncodedKeySpec(Bytes.join(PUBLIC, publicKey)));
      Signature verifier = Signature.getInstance("Ed25519");
      verifier.initVerify(known);
      verifier.update(statement);
      return verifier.verify(signature);
    } catch (GeneralSecurityException error) {
      return false;
    }
  }

  private static byte[] last32(byte[] encoded) {
    return Arrays.copyOfRange(encoded, encoded.length - 32, encoded.length);
  }
}
