package dev.tacit.edge.wire;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;

/**
 * What every signature covers, and the digests that name a session and a task.
 *
 * <p>`tacit.protocol.statements` and `tacit.privacy.secagg.messages` in Python; held to
 * tests/vectors/statements.json.
 */
public final class Statements {
  private Statements() {}

  /** Of an answer: this body, by this client, to the one message that had this nonce. */
  public static byte[] reply(byte[] nonce, String kind, long client, byte[] body) {
    return Crypto.derive(
        "reply", nonce, Bytes.utf8(kind), Bytes.decimal(client), Crypto.sha256(body));
  }

  /** Of a refusal. */
  public static byte[] refusal(byte[] nonce, String kind, long client, int reason, String text) {
    return Crypto.derive(
        "refusal",
        nonce,
        Bytes.utf8(kind),
        Bytes.decimal(client),
        Bytes.decimal(reason),
        Bytes.utf8(text));
  }

  /** Of a device that enrols. */
  public static byte[] enrolment(String token, byte[] csr) {
    return Crypto.derive("enrol", Bytes.utf8(token), csr);
  }

  /** Of a device that asks for another certificate. */
  public static byte[] renewal(byte[] csr) {
    return Crypto.derive("renew", csr);
  }

  /** Of the enrolment authority: this identity is this client's. */
  public static byte[] attestation(String population, long client, byte[] identity) {
    return Crypto.derive(
        "attestation", Bytes.utf8(population), Bytes.decimal(client), identity);
  }

  /** Of the coordinator: devices may train by this run document. */
  public static byte[] document(byte[] body) {
    return Crypto.derive("run document", body);
  }

  /** Digest of all that a session is about, in hex. */
  public static String session(Message invitation) {
    return Bytes.hex(
        Crypto.derive(
            "session",
            Bytes.utf8(invitation.text("run")),
            Bytes.decimal(invitation.integer("round")),
            Bytes.decimal(invitation.integer("attempt")),
            Bytes.utf8(invitation.text("purpose")),
            Bytes.utf8(invitation.text("plan")),
            Bytes.utf8(invitation.text("task"))));
  }

  /** Digest of what a request asks, whoever takes part, in hex. */
  public static String task(Message request) {
    return Bytes.hex(request.with("clients", 0).with("members", Bytes.EMPTY).digest());
  }

  /** The invitation that a request is the task of. */
  public static Message invitation(Message request, String purpose) {
    return Message.of(
        Kind.INVITATION,
        request.text("run"),
        request.integer("round"),
        request.integer("attempt"),
        purpose,
        request.text("plan"),
        task(request));
  }

  /** Of an advertisement. */
  public static byte[] advertised(String session, long client, byte[] channel, byte[] mask) {
    return Crypto.derive(
        "advertisement", Bytes.utf8(session), Bytes.decimal(client), channel, mask);
  }

  /** Of a confirmation: the same for every client. */
  public static byte[] agreement(
      String session, byte[] roster, byte[] members, byte[] survivors) {
    return Crypto.derive("survivors", Bytes.utf8(session), roster, members, survivors);
  }

  /** What an answer's own signature covers. */
  public static byte[] answer(Message answer) {
    switch (answer.kind()) {
      case ADVERTISEMENT:
        return advertised(
            answer.text("session"),
            answer.integer("client"),
            answer.bytes("channel"),
            answer.bytes("mask"));
      case CONFIRMATION:
        return answer.bytes("agreed");
      default:
        return Crypto.derive("answer", answer.with("signature", Bytes.EMPTY).digest());
    }
  }
}
