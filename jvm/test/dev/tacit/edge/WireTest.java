package dev.tacit.edge;

import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.wire.Json;
import dev.tacit.edge.wire.Kind;
import dev.tacit.edge.wire.Message;
import dev.tacit.edge.wire.Statements;
import java.util.Map;
import java.util.Random;

/** Against messages.json and statements.json. */
final class WireTest {
  private static final Map<String, Object> ALL = Check.vectors("messages.json");

  private WireTest() {}

  static void testRequests() {
    byte[] data = Check.hex(ALL, "train");
    Message train = Message.decode(Kind.TRAIN_REQUEST, data);
    Check.same("again", data, train.encode());
    Check.same("run", "r\u00e9-1", train.text("run"));
    Check.same("clip", 0.1, train.real("clip"));
    float[] found = train.vector("parameters");
    double[] due = Check.reals(ALL.get("parameters"));
    for (int i = 0; i < due.length; i++) {
      Check.near("parameter", due[i], found[i], 0);
    }
    Check.same("task", ALL.get("task"), Statements.task(train));
    Message invitation = Statements.invitation(train, "train");
    Check.same("invitation", Check.hex(ALL, "invitation"), invitation.encode());
    Check.same("session", ALL.get("session"), Statements.session(invitation));
    Message.decode(Kind.EVALUATE_REQUEST, Check.hex(ALL, "evaluate"));
  }

  static void testRefusals() {
    Check.object(ALL, "refused")
        .forEach(
            (name, data) ->
                Check.refused(
                    name,
                    Reason.MALFORMED,
                    () -> Message.decode(Kind.TRAIN_REQUEST, Bytes.unhex((String) data))));
  }

  static void testNumbers() {
    for (Object item : Check.list(ALL, "numbers")) {
      Map<String, Object> one = Json.object(item);
      double value = Double.longBitsToDouble(Long.parseUnsignedLong((String) one.get("bits"), 16));
      Check.same("number", one.get("text"), Json.real(value));
    }
    Random random = new Random(1);
    for (int i = 0; i < 20_000; i++) {
      double value = Double.longBitsToDouble(random.nextLong());
      if (!Double.isNaN(value) && !Double.isInfinite(value)) {
        Check.same("round trip", value, Double.parseDouble(Json.real(value)));
      }
    }
  }

  /** Whatever arrives: a refusal or a message that is the same bytes again, nothing else. */
  static void testFuzz() {
    Random random = new Random(2);
    byte[] good = Check.hex(ALL, "train");
    int read = 0;
    for (int i = 0; i < 100_000; i++) {
      byte[] data = good.clone();
      int changes = 1 + random.nextInt(3);
      for (int k = 0; k < changes; k++) {
        data[random.nextInt(data.length)] = (byte) random.nextInt(256);
      }
      if (random.nextInt(4) == 0) {
        data = java.util.Arrays.copyOf(data, random.nextInt(2 * data.length));
      }
      try {
        Check.same("bytes", data, Message.decode(Kind.TRAIN_REQUEST, data).encode());
        read++;
      } catch (TacitException refusal) {
        Check.same("reason", Reason.MALFORMED, refusal.reason());
      }
    }
    Check.that("some of them are messages: " + read, read > 100);
  }

  static void testJson() {
    byte[] text = Bytes.utf8("{\"\u20ac\":\"\\u0001\\n\\\"\",\"a\":[1,2.50,true,null]}");
    Check.same(
        "canonical",
        "{\"a\":[1,2.50,true,null],\"\u20ac\":\"\\u0001\\n\\\"\"}",
        new String(Json.write(Json.read(text)), java.nio.charset.StandardCharsets.UTF_8));
    String deep = "[".repeat(10_000) + "]".repeat(10_000);
    String[] wrong = {
      "{\"a\":1,\"a\":2}", "01", "[1,]", "\"\\ud800\"x", "nul", "1e", deep, "", "{"
    };
    for (String one : wrong) {
      Check.refused(one.substring(0, Math.min(9, one.length())), Reason.MALFORMED,
          () -> Json.read(Bytes.utf8(one)));
    }
    Check.refused("lone surrogate", Reason.MALFORMED,
        () -> Json.canonical(Bytes.utf8("{\"a\":\"\\ud800\"}")));
  }

  static void testStatements() {
    Map<String, Object> all = Check.vectors("statements.json");
    byte[] nonce = Check.hex(all, "nonce");
    byte[] body = Check.hex(all, "body");
    Check.same("reply", Check.hex(all, "reply"), Statements.reply(nonce, "query.share", 7, body));
    Check.same("refusal", Check.hex(all, "refusal"),
        Statements.refusal(nonce, "train", 7, 4, "below a floor: \u00e9"));
    Check.same("enrolment", Check.hex(all, "enrolment"), Statements.enrolment("token", body));
    Check.same("renewal", Check.hex(all, "renewal"), Statements.renewal(body));
    Check.same("attestation", Check.hex(all, "attestation"),
        Statements.attestation("phones", 7, Check.hex(all, "identity")));
    Check.same("document", Check.hex(all, "document"), Statements.document(body));
    byte[] c = Bytes.utf8("c".repeat(32));
    byte[] m = Bytes.utf8("m".repeat(32));
    Check.same("advertised", Check.hex(all, "advertised"), Statements.advertised("5e55", 7, c, m));
    Check.same("agreement", Check.hex(all, "agreement"),
        Statements.agreement("5e55", Bytes.utf8("r".repeat(32)), Bytes.utf8("abcd"),
            Bytes.utf8("efgh")));
  }
}
