package dev.tacit.edge.agent;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Bytes;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * The device's TLS key and certificates; `tacit.client.edge.certificates`.
 *
 * <p>A private key is made here (ECDSA P-256) and goes into no request; what comes back is taken
 * only if it certifies this very key and leads to the CA that came with the bundle.
 */
final class Certificates {
  private static final String CURVE = "secp256r1";
  private static final int LONGEST_CHAIN = 5;
  private static final Pattern PEM =
      Pattern.compile("-----BEGIN ([A-Z ]+)-----([A-Za-z0-9+/=\\s]+)-----END \\1-----");

  private Certificates() {}

  /** A fresh key. */
  static KeyPair generate() {
    try {
      KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
      generator.initialize(new ECGenParameterSpec(CURVE));
      return generator.generateKeyPair();
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("this platform has no ECDSA P-256", error);
    }
  }

  /** A request to certify a key: PKCS#10 (RFC 2986), DER. The subject is ignored. */
  static byte[] request(KeyPair pair) {
    byte[] name =
        der(0x30, der(0x31, der(0x30, der(6, 0x55, 4, 3), der(0x0C, Bytes.utf8("device")))));
    byte[] none = der(0xA0, new byte[0]);
    byte[] said = der(0x30, der(2, 0), name, pair.getPublic().getEncoded(), none);
    try {
      Signature signature = Signature.getInstance("SHA256withECDSA");
      signature.initSign(pair.getPrivate());
      signature.update(said);
      byte[] how = der(0x30, der(6, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2));
      return der(0x30, said, how, der(3, new byte[1], signature.sign()));
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException("ECDSA failed", error);
    }
  }

  private static byte[] der(int tag, int... content) {
    byte[] bytes = new byte[content.length];
    for (int i = 0; i < bytes.length; i++) {
      bytes[i] = (byte) content[i];
    }
    return der(tag, bytes);
  }

  private static byte[] der(int tag, byte[]... parts) {
    byte[] content = Bytes.join(parts);
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    out.write(tag);
    if (content.length < 128) {
      out.write(content.length);
    } else {
      int bytes = content.length < 256 ? 1 : content.length < 65536 ? 2 : 3;
      out.write(0x80 | bytes);
      for (int i = bytes - 1; i >= 0; i--) {
        out.write(content.length >> 8 * i);
      }
    }
    out.write(content, 0, content.length);
    return out.toByteArray();
  }

  /**
   * Key and certificates as one PEM, once they are found to belong together.
   *
   * @throws TacitException MALFORMED: the chain doesn't lead from the key to the root
   */
  static byte[] bound(KeyPair pair, List<byte[]> chain, String ca) {
    if (chain.isEmpty() || chain.size() > LONGEST_CHAIN) {
      throw TacitException.malformed("a chain of " + chain.size() + " certificates");
    }
    StringBuilder out = new StringBuilder(pem("PRIVATE KEY", pair.getPrivate().getEncoded()));
    try {
      List<X509Certificate> found = new ArrayList<>();
      for (byte[] der : chain) {
        found.add(certificate(der));
        out.append(pem("CERTIFICATE", der));
      }
      found.addAll(certificates(ca));
      for (int i = 0; i < chain.size(); i++) {
        X509Certificate issuer = found.get(i + 1);
        found.get(i).verify(issuer.getPublicKey());
        boolean named =
            found.get(i).getIssuerX500Principal().equals(issuer.getSubjectX500Principal());
        if (!named || issuer.getBasicConstraints() < 0) {
          throw TacitException.malformed("a certificate was issued by one that may not");
        }
      }
      byte[] certified = found.get(0).getPublicKey().getEncoded();
      if (!java.util.Arrays.equals(certified, pair.getPublic().getEncoded())) {
        throw TacitException.malformed("the certificate is for another key than this device's");
      }
    } catch (GeneralSecurityException error) {
      throw new TacitException(
          TacitException.Reason.MALFORMED, "the certificates don't lead to the CA", error);
    }
    return Bytes.utf8(out.toString());
  }

  private static String pem(String label, byte[] der) {
    String body = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(der);
    return "-----BEGIN " + label + "-----\n" + body + "\n-----END " + label + "-----\n";
  }

  /** The certificates in PEM. */
  static List<X509Certificate> certificates(String pem) throws GeneralSecurityException {
    List<X509Certificate> found = new ArrayList<>();
    for (byte[] der : blocks(pem, "CERTIFICATE")) {
      found.add(certificate(der));
    }
    if (found.isEmpty()) {
      throw new GeneralSecurityException("no certificate");
    }
    return found;
  }

  private static X509Certificate certificate(byte[] der) throws GeneralSecurityException {
    return (X509Certificate)
        CertificateFactory.getInstance("X.509")
            .generateCertificate(new ByteArrayInputStream(der));
  }

  private static List<byte[]> blocks(String pem, String label) {
    List<byte[]> found = new ArrayList<>();
    Matcher matcher = PEM.matcher(pem);
    while (matcher.find()) {
      if (matcher.group(1).equals(label)) {
        found.add(Base64.getMimeDecoder().decode(matcher.group(2)));
      }
    }
    return found;
  }

  /**
   * What to connect with.
   *
   * @param ca PEM of the only authority that is trusted
   * @param own what {@link #bound} made, or null where there is no certificate yet
   */
  static SSLContext tls(String ca, String own) {
    try {
      KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
      trusted.load(null, null);
      trusted.setCertificateEntry("ca", certificates(ca).get(0));
      TrustManagerFactory trust =
          TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
      trust.init(trusted);
      SSLContext made = SSLContext.getInstance("TLS");
      made.init(own == null ? null : keys(own), trust.getTrustManagers(), null);
      return made;
    } catch (GeneralSecurityException | IOException error) {
      throw new TacitException(
          TacitException.Reason.FAILED, "the device's certificates can't be used", error);
    }
  }

  private static KeyManager[] keys(String own) throws GeneralSecurityException, IOException {
    byte[] encoded = blocks(own, "PRIVATE KEY").get(0);
    PrivateKey key = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(encoded));
    KeyStore held = KeyStore.getInstance(KeyStore.getDefaultType());
    held.load(null, null);
    X509Certificate[] chain = certificates(own).toArray(new X509Certificate[0]);
    held.setKeyEntry("device", key, new char[0], chain);
    KeyManagerFactory made =
        KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
    made.init(held, new char[0]);
    return made.getKeyManagers();
  }

  /** Whether less than a third of the certificate's life is left. */
  static boolean due(String own, long nowMillis) {
    try {
      X509Certificate found = certificates(own).get(0);
      long end = found.getNotAfter().getTime();
      return end - nowMillis < (end - found.getNotBefore().getTime()) / 3;
    } catch (GeneralSecurityException error) {
      throw new TacitException(
          TacitException.Reason.FAILED, "the device's certificates can't be read", error);
    }
  }
}
