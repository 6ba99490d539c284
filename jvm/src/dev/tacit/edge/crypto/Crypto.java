package dev.tacit.edge.crypto;

import dev.tacit.edge.TacitException;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import javax.crypto.AEADBadTagException;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;

/**
 * Hashing over an injective encoding, HKDF, sealing: thin functions over the platform's provider.
 *
 * <p>SHA-256, HMAC-SHA256 with HKDF (RFC 5869), AES-256-GCM (NIST SP 800-38D). The same bytes as
 * `tacit.privacy.secagg.keys`; tests/vectors/keys.json holds them to it. A key of {@link #seal}
 * seals one message in its life: the nonce is constant.
 */
public final class Crypto {
  public static final int KEY_BYTES = 32;
  public static final int TAG_BYTES = 16;
  private static final SecureRandom RANDOM = new SecureRandom();

  private Crypto() {}

  /** Fresh bytes from the platform's CSPRNG. */
  public static byte[] random(int size) {
    byte[] out = new byte[size];
    RANDOM.nextBytes(out);
    return out;
  }

  /** SHA-256 of the parts, one after the other. */
  public static byte[] sha256(byte[]... parts) {
    MessageDigest digest = hasher();
    for (byte[] part : parts) {
      digest.update(part);
    }
    return digest.digest();
  }

  /** A SHA-256 to be fed. */
  public static MessageDigest hasher() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("this platform has no SHA-256", error);
    }
  }

  /** SHA-256 of the tag and the parts, each after its length (8 bytes, big-endian). */
  public static byte[] derive(String tag, byte[]... parts) {
    MessageDigest digest = hasher();
    fed(digest, Bytes.utf8(tag));
    for (byte[] part : parts) {
      fed(digest, part);
    }
    return digest.digest();
  }

  private static void fed(MessageDigest digest, byte[] part) {
    byte[] length = new byte[8];
    for (int i = 0; i < 8; i++) {
      length[i] = (byte) ((long) part.length >>> (56 - 8 * i));
    }
    digest.update(length);
    digest.update(part);
  }

  /** HKDF-SHA256 without salt, to one key: extract, then the first block of expand. */
  public static byte[] hkdf(byte[] secret, byte[] info) {
    byte[] extracted = hmac(new byte[32], secret);
    return hmac(extracted, Bytes.join(info, new byte[] {1}));
  }

  private static byte[] hmac(byte[] key, byte[] data) {
    try {
      Mac mac = Mac.getInstance("HmacSHA256");
      mac.init(new SecretKeySpec(key, "HmacSHA256"));
      return mac.doFinal(data);
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("this platform has no HMAC-SHA256", error);
    }
  }

  /** AES-256-GCM with a nonce of zeros: ciphertext and tag. */
  public static byte[] seal(byte[] key, byte[] plaintext, byte[] associated) {
    try {
      Cipher cipher = gcm(Cipher.ENCRYPT_MODE, key, associated);
      return cipher.doFinal(plaintext);
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("AES-GCM failed", error);
    }
  }

  /**
   * The plaintext of {@link #seal}.
   *
   * @throws TacitException MALFORMED: it wasn't sealed with this key
   */
  public static byte[] open(byte[] key, byte[] ciphertext, byte[] associated) {
    if (ciphertext.length < TAG_BYTES) {
      // The JDK's provider takes this for a fault of its own.
      throw TacitException.malformed("a sealed message is cut short");
    }
    try {
      Cipher cipher = gcm(Cipher.DECRYPT_MODE, key, associated);
      return cipher.doFinal(ciphertext);
    } catch (AEADBadTagException error) {
      throw TacitException.malformed("a sealed message doesn't open: altered, or another's");
    } catch (GeneralSecurityException error) {
      throw new TacitException(TacitException.Reason.MALFORMED, "a sealed message is cut", error);
    }
  }

  private static Cipher gcm(int mode, byte[] key, byte[] associated)
      throws GeneralSecurityException {
    if (key.length != KEY_BYTES) {
      throw new IllegalArgumentException("a sealing key has 32 bytes");
    }
    Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
    GCMParameterSpec nonce = new GCMParameterSpec(8 * TAG_BYTES, new byte[12]);
    cipher.init(mode, new SecretKeySpec(key, "AES"), nonce);
    cipher.updateAAD(associated);
    return cipher;
  }
}
