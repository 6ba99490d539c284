package dev.tacit.edge.agent;

import com.google.protobuf.ByteString;
import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.v1.Attestation;
import dev.tacit.edge.v1.EnrolReply;
import dev.tacit.edge.v1.EnrolRequest;
import dev.tacit.edge.v1.EnrolmentGrpc;
import dev.tacit.edge.v1.GatewayGrpc;
import dev.tacit.edge.v1.RenewRequest;
import dev.tacit.edge.wire.Statements;
import io.grpc.ManagedChannel;
import java.security.KeyPair;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * Enrolment and renewal: a token, or a certificate, becomes a certificate.
 *
 * <p>The bundle's CA is the only one trusted, and a reply counts only if the pinned authority
 * attested this device's identity for the number and population in it; nothing but this device's
 * own signing key is written before that. Asked again after a lost reply, it is the same device.
 */
public final class Enrolment {
  private Enrolment() {}

  /**
   * Enrols a device.
   *
   * @param bundle what an operator handed over (`tacit devices invite`)
   * @throws TacitException MALFORMED: the reply isn't what the bundle's keys sign
   * @throws io.grpc.StatusRuntimeException the service can't be reached, or refused
   */
  public static Home.Enrolled enrol(Home home, Map<String, Object> bundle, Transport transport) {
    Identity identity = home.identity();
    KeyPair pair = Certificates.generate();
    byte[] csr = Certificates.request(pair);
    String token = Home.text(bundle, "token");
    String ca = Home.text(bundle, "ca");
    EnrolRequest request =
        EnrolRequest.newBuilder()
            .setToken(token)
            .setCsr(ByteString.copyFrom(csr))
            .setIdentity(ByteString.copyFrom(identity.publicKey()))
            .setProof(ByteString.copyFrom(identity.sign(Statements.enrolment(token, csr))))
            .setAgent(Agent.NAME)
            .build();
    Address address = new Address(Home.text(bundle, "enrol"));
    ManagedChannel channel =
        transport.open(address.host, address.port, Certificates.tls(ca, null));
    EnrolReply reply;
    try {
      reply =
          EnrolmentGrpc.newBlockingStub(channel)
              .withDeadlineAfter(60, TimeUnit.SECONDS)
              .enrol(request);
    } finally {
      channel.shutdownNow();
    }
    Home.Enrolled who = new Home.Enrolled(reply.getClient() & 0xFFFFFFFFL, bundle);
    byte[] pem = checked(reply, who, identity, pair);
    new Peers(home.path.resolve("peers.json"), who.population, who.authority)
        .pin(List.of(reply.getAttestation()));
    home.certify(pem);
    home.enrol(who.client, bundle);
    return who;
  }

  /** Replaces the certificate of an enrolled device, over a connection with the old one. */
  static void renew(Home home, Home.Enrolled who, ManagedChannel channel) {
    Identity identity = home.identity();
    KeyPair pair = Certificates.generate();
    byte[] csr = Certificates.request(pair);
    RenewRequest request =
        RenewRequest.newBuilder()
            .setCsr(ByteString.copyFrom(csr))
            .setProof(ByteString.copyFrom(identity.sign(Statements.renewal(csr))))
            .build();
    EnrolReply reply =
        GatewayGrpc.newBlockingStub(channel).withDeadlineAfter(60, TimeUnit.SECONDS).renew(request);
    if ((reply.getClient() & 0xFFFFFFFFL) != who.client) {
      throw TacitException.malformed("a certificate was renewed for another client");
    }
    home.certify(checked(reply, who, identity, pair));
  }

  private static byte[] checked(
      EnrolReply reply, Home.Enrolled who, Identity identity, KeyPair pair) {
    Attestation said = reply.getAttestation();
    if (!reply.getPopulation().equals(who.population)) {
      throw TacitException.malformed("the reply is for another population than the bundle");
    }
    boolean own = Arrays.equals(said.getIdentity().toByteArray(), identity.publicKey());
    if ((said.getClient() & 0xFFFFFFFFL) != who.client || !own) {
      throw TacitException.malformed("the reply attests another identity than this device's");
    }
    if (!Peers.attested(said, who.population, who.authority)) {
      throw TacitException.malformed("the reply isn't signed by the bundle's authority");
    }
    List<byte[]> chain = new ArrayList<>();
    for (ByteString der : reply.getChainList()) {
      chain.add(der.toByteArray());
    }
    return Certificates.bound(pair, chain, who.ca);
  }

  /** Host and port of "host:port". */
  static final class Address {
    final String host;
    final int port;

    Address(String text) {
      int colon = text.lastIndexOf(':');
      if (colon <= 0 || !text.substring(colon + 1).matches("[0-9]{1,5}")) {
        throw new TacitException(TacitException.Reason.FAILED, "an address must be host:port");
      }
      host = text.substring(0, colon);
      port = Integer.parseInt(text.substring(colon + 1));
    }
  }
}
