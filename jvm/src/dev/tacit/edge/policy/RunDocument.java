package dev.tacit.edge.policy;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.wire.Json;
import dev.tacit.edge.wire.Statements;
import java.util.Arrays;
import java.util.Map;

/**
 * The run document, "TCD1": all that a device trains by, under the coordinator's signature.
 *
 * <p>`tacit.protocol.document`. What is read was signed by the pinned key, is canonical, has every
 * field and no other, and plan and manifests fit one another.
 */
public final class RunDocument {
  private static final byte[] MAGIC = Bytes.utf8("TCD1");
  private static final int START = 4 + Identity.SIGNATURE_BYTES;
  private static final int LARGEST = 1 << 20;

  public final String run;
  public final String population;
  public final Plan plan;
  public final double learningRate;
  public final double proximal;
  public final String frozen;
  public final Manifest step;
  /** Null if the plan doesn't evaluate. */
  public final Manifest evaluation;

  private RunDocument(Map<String, Object> held) {
    Fields of = new Fields("document", held, Reason.UNSIGNED);
    if (of.whole("version", 1) != 1) {
      throw of.wrong("version");
    }
    run = of.text("run");
    population = of.text("population");
    plan = new Plan(of.raw("plan"));
    frozen = of.text("frozen");
    Fields training = of.optional("training");
    if (training == null) {
      throw of.wrong("training");
    }
    learningRate = training.positive("learning_rate");
    proximal = training.nonnegative("proximal");
    boolean steps = training.given("steps") && training.whole("steps", 1) > 0;
    boolean rate = training.given("sampling_rate") && training.rate("sampling_rate") > 0;
    training.done();
    step = new Manifest(of.raw("step"));
    evaluation = of.given("evaluation") ? new Manifest(of.raw("evaluation")) : null;
    of.done();
    boolean fits = steps == rate && (plan.record == null) == steps;
    fits = fits && step.kind.equals("step") && frozen.matches("[0-9a-f]{64}");
    fits = fits && (plan.updates == null || plan.updates.dimension == step.size());
    fits = fits && (evaluation == null) == (plan.evaluation == null);
    if (evaluation != null) {
      fits = fits && evaluation.kind.equals("evaluation") && evaluation.size() == step.size();
    }
    if (!fits || !boundsRecords()) {
      throw new TacitException(Reason.UNSIGNED, "the run document doesn't fit itself");
    }
  }

  /** Where shares of noise protect records, none moves a vector by more than the plan says. */
  private boolean boundsRecords() {
    if (!plan.noisedByShares()) {
      return true;
    }
    double share = learningRate / plan.record.denominator * (plan.record.clip / plan.projection);
    double most = plan.updates.recordNorm / plan.updates.norm * (1 + 1e-9);
    return share <= most || most >= 2;
  }

  /**
   * The document in signed bytes.
   *
   * @param coordinator the pinned Ed25519 key
   * @throws TacitException UNSIGNED or PLAN
   */
  public static RunDocument decode(byte[] data, byte[] coordinator) {
    boolean whole = data.length > START && data.length <= START + LARGEST;
    if (!whole || !Arrays.equals(Bytes.slice(data, 0, 4), MAGIC)) {
      throw new TacitException(Reason.UNSIGNED, "these bytes aren't a run document");
    }
    byte[] text = Bytes.slice(data, START, data.length - START);
    byte[] signature = Bytes.slice(data, 4, Identity.SIGNATURE_BYTES);
    if (!Identity.verify(coordinator, signature, Statements.document(text))) {
      throw new TacitException(
          Reason.UNSIGNED, "the run document isn't signed by the coordinator's key");
    }
    try {
      return new RunDocument(Json.canonical(text));
    } catch (TacitException error) {
      if (error.reason() == Reason.MALFORMED) {
        throw new TacitException(Reason.UNSIGNED, "the run document can't be read", error);
      }
      throw error;
    }
  }
}
