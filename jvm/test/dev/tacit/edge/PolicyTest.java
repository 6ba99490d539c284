package dev.tacit.edge;

import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.policy.Ledger;
import dev.tacit.edge.policy.Limits;
import dev.tacit.edge.policy.Plan;
import dev.tacit.edge.policy.RunDocument;
import dev.tacit.edge.wire.Json;
import dev.tacit.edge.wire.Statements;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.function.UnaryOperator;

/** Against plans.json and runs.json: plans, documents, limits, the ledger. */
final class PolicyTest {
  private static final Map<String, Object> RUNS = Check.vectors("runs.json");

  private PolicyTest() {}

  private static String planText(String name) {
    for (Object item : Check.list(Check.vectors("plans.json"), "plans")) {
      Map<String, Object> one = Json.object(item);
      if (one.get("name").equals(name)) {
        return (String) one.get("json");
      }
    }
    throw new AssertionError(name);
  }

  private static Plan plan(String text) {
    return new Plan(Json.canonical(Bytes.utf8(text)));
  }

  private static Limits limits(String text) {
    return new Limits(Json.read(Bytes.utf8(text)));
  }

  static void testPlans() {
    for (Object item : Check.list(Check.vectors("plans.json"), "plans")) {
      Map<String, Object> one = Json.object(item);
      Check.same("digest", one.get("digest"), plan((String) one.get("json")).digest);
    }
    Plan secure = plan(planText("secure"));
    secure.checkClip(0.5);
    Check.refused("clip", Reason.PLAN, () -> secure.checkClip(0.6));
  }

  static void testPlansThatCanNotBe() {
    String good = planText("secure");
    String[][] changes = {
      {"\"variance\":806411.0000000001", "\"variance\":700000"},
      {"\"collusion\":1", "\"collusion\":2"},
      {"\"dropout\":0.3", "\"dropout\":0.4"},
      {"\"minimum_survivors\":5", "\"minimum_survivors\":4"},
      {"\"rounds\":3", "\"rounds\":\"3\""},
      {"\"rounds\":3", "\"rounds\":3,\"rounds2\":3"},
      {"\"projection\":null,", ""},
      {"\"mechanism\":\"skellam\"", "\"mechanism\":\"laplace\""},
      {"\"relation\":\"zero-out\"", "\"relation\":\"add-or-remove-one\""},
      {"\"population\":20", "\"population\":19"},
      {"\"aggregation\":\"secure\"", "\"aggregation\":\"plain\"", "skellam", "central"},
    };
    refusedEach(good, changes);
  }

  /** What a record of a plan by shares could do beyond what the plan says. */
  static void testPlansThatSayTooLittleOfARecord() {
    String none = "\"noise_multiplier\":0,\"sampling_rate\":1,";
    String[][] changes = {
      {"\"record_norm\":65.51", "\"record_norm\":65.5"},
      {"\"record_norm\":9153.666666666666", "\"record_norm\":0"},
      {"\"projection\":0.175", "\"projection\":null"},
      {"\"steps\":1}", "\"steps\":2}"},
      // A draw that is named as rare doesn't make the multiplier mean less.
      {
        none, none.replace(":0,", ":2,"),
        "\"sampling_rate\":1,\"up", "\"sampling_rate\":1e-9,\"up",
        "\"rotated\":true,\"variance\":0", "\"rotated\":true,\"variance\":1000000"
      },
    };
    Map<String, Object> document = Json.canonical(Bytes.utf8(runText(1)));
    String good = new String(Json.write(document.get("plan")), StandardCharsets.UTF_8);
    plan(good);
    refusedEach(good, changes);
  }

  private static void refusedEach(String good, String[][] changes) {
    for (String[] change : changes) {
      String changed = good;
      for (int i = 0; i < change.length; i += 2) {
        Check.that(change[i] + " is there", changed.contains(change[i]));
        changed = changed.replace(change[i], change[i + 1]);
      }
      String bad = changed;
      Check.refused(change[1], Reason.PLAN, () -> plan(bad));
    }
  }

  static void testLimits() {
    Plan secure = plan(planText("secure"));
    limits("{}").check(secure);
    limits("{\"survivors\":5,\"noise_multiplier\":1,\"clip\":0.5,\"bits\":16}").check(secure);
    String[] above = {
      "{\"survivors\":6}",
      "{\"noise_multiplier\":1.01}",
      "{\"record_noise_multiplier\":0.81}",
      "{\"clip\":0.4}",
      "{\"bits\":20}"
    };
    for (String text : above) {
      Check.refused(text, Reason.FLOOR, () -> limits(text).check(secure));
    }
    Plan quiet =
        plan(planText("secure").replace("\"variance\":1194650.482050808", "\"variance\":1"));
    Check.refused(
        "of an evaluation too",
        Reason.FLOOR,
        () -> limits("{\"noise_multiplier\":1}").check(quiet));
    limits("{}").check(quiet);
    Plan central = plan(planText("central"));
    Check.refused("secure is the default", Reason.FLOOR, () -> limits("{}").check(central));
    limits("{\"secure\":false}").check(central);
    String seeded = planText("secure").replace("os-csprng", "seeded-simulation");
    Check.refused("seeded", Reason.FLOOR, () -> limits("{}").check(plan(seeded)));
    String[] wrong = {"{\"epsilon\":3,\"delta\":0.00001}", "{\"clap\":1}", "{\"rounds\":-1}"};
    for (String text : wrong) {
      Check.refused(text, Reason.FAILED, () -> limits(text));
    }
  }

  static void testDocuments() {
    byte[] known = Check.hex(RUNS, "coordinator");
    for (Object item : Check.list(RUNS, "runs")) {
      Map<String, Object> one = Json.object(item);
      byte[] data = Check.hex(one, "document");
      RunDocument about = RunDocument.decode(data, known);
      Check.same("plan", one.get("plan"), about.plan.digest);
      Check.same("run", "run-1 of phones", about.run + " of " + about.population);
      byte[] altered = data.clone();
      altered[data.length - 3] ^= 1;
      byte[] another = Identity.generate().publicKey();
      Check.refused("altered", Reason.UNSIGNED, () -> RunDocument.decode(altered, known));
      Check.refused("another key", Reason.UNSIGNED, () -> RunDocument.decode(data, another));
      byte[] none = new byte[0];
      Check.refused("none", Reason.UNSIGNED, () -> RunDocument.decode(none, known));
    }
  }

  /** The JSON of a run's document: 0 has both units, 1 protects records by shares of noise. */
  private static String runText(int run) {
    byte[] data = Check.hex(Json.object(Check.list(RUNS, "runs").get(run)), "document");
    return new String(Bytes.slice(data, 68, data.length - 68), StandardCharsets.UTF_8);
  }

  /** A coordinator that signs what doesn't fit. */
  static void testDocumentsThatCanNotBe() {
    String text = runText(0);
    Identity signer = Identity.generate();
    UnaryOperator<String> again =
        changed -> {
          byte[] body = Bytes.utf8(changed);
          byte[] signature = signer.sign(Statements.document(body));
          byte[] whole = Bytes.join(Bytes.utf8("TCD1"), signature, body);
          RunDocument.decode(whole, signer.publicKey());
          return changed;
        };
    again.apply(text);
    String shares = runText(1);
    String rate = "\"learning_rate\":0.25";
    again.apply(shares.replace(rate, "\"learning_rate\":0.125"));
    Check.refused(
        "a learning rate with which a record does more",
        Reason.UNSIGNED,
        () -> again.apply(shares.replace(rate, "\"learning_rate\":0.26")));
    String[][] changes = {
      {"\"version\":1}", "\"version\":2}"},
      {"\"proximal\":0.1", "\"proximal\":-1"},
      {"\"frozen\":\"", "\"frozen\":\"x"},
      {"\"kind\":\"step\"", "\"kind\":\"evaluation\""},
      {"{\"evaluation\"", "{ \"evaluation\""},
      {"\"dtype\":\"float64\"", "\"dtype\":\"float32\""},
      {"\"microbatch\":", "\"microbatch\":1"},
    };
    for (String[] change : changes) {
      String bad = text.replace(change[0], change[1]);
      Check.that(change[0] + " is there", !bad.equals(text));
      Check.refused(change[1], Reason.UNSIGNED, () -> again.apply(bad));
    }
  }

  static void testLedger() throws IOException {
    Path path = Files.createTempDirectory("tacit-ledger").resolve("ledger.jsonl");
    double[] now = {1000.25};
    Plan plan = plan(planText("secure"));
    Limits limits = limits("{\"rounds\":3,\"separation\":60}");
    Ledger ledger = new Ledger(path, limits, () -> now[0]);
    ledger.charge("run", 1, 0, "train", "s1", plan);
    ledger.charge("run", 1, 0, "train", "s1", plan);
    ledger.charge("run", 1, 0, "evaluate", "s2", plan);
    Check.same("one session once", 2, ledger.participations());
    Check.refused("too soon", Reason.SEPARATION, () -> ledger.project("run", 2, "s3"));
    now[0] = 900;
    Check.refused("backwards", Reason.SEPARATION, () -> ledger.project("run", 2, "s3"));
    now[0] = Double.NaN;
    Check.refused("no clock", Reason.SEPARATION, () -> ledger.project("run", 2, "s3"));
    now[0] = 1061;
    // A line that a power cut left half is for nothing that was sent.
    Files.write(path, Bytes.utf8("{\"run\":"), StandardOpenOption.APPEND);
    Ledger later = new Ledger(path, limits, () -> now[0]);
    Check.same("kept", 2, later.participations());
    later.charge("run", 2, 0, "train", "s3", plan);
    now[0] = 2000;
    Check.refused("rounds", Reason.ROUNDS, () -> later.charge("run", 3, 0, "train", "s4", plan));
    later.charge("run", 2, 0, "train", "s3", plan);
    Check.same("read again", 3, new Ledger(path, limits, () -> 0).participations());
  }
}
