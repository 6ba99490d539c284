package dev.tacit.edge.policy;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.noise.Lattice;
import dev.tacit.edge.secagg.Rules;
import dev.tacit.edge.wire.Json;

/**
 * A privacy plan as a device reads it: everything that its own guarantee depends on.
 *
 * <p>`tacit.privacy.plan`. Guarantees that every field is there, known, of its type and in range,
 * and that where noise is added in shares the lattices carry what the units' multipliers stand
 * for. The digest is that of the JSON as it came, which has to be canonical. It doesn't say what
 * the plan claims: that takes an accountant.
 */
public final class Plan {
  private static final double ALMOST = 1 - 1e-9;

  /** Client-level DP. */
  public static final class ClientUnit {
    public final double clip;
    public final double noiseMultiplier;
    public final boolean adaptive;

    private ClientUnit(Fields of) {
      clip = of.positive("clip");
      noiseMultiplier = of.nonnegative("noise_multiplier");
      Fields rule = of.optional("adaptive");
      adaptive = rule != null;
      if (rule != null) {
        rule.rate("quantile");
        rule.positive("learning_rate");
        rule.positive("count_noise");
        rule.done();
      }
      of.done();
    }
  }

  /** Record-level DP. */
  public static final class RecordUnit {
    public final double clip;
    public final double noiseMultiplier;
    public final double samplingRate;
    public final int steps;
    public final double denominator;

    private RecordUnit(Fields of) {
      clip = of.positive("clip");
      noiseMultiplier = of.nonnegative("noise_multiplier");
      samplingRate = of.rate("sampling_rate");
      steps = of.whole("steps", 1);
      denominator = of.positive("denominator");
      of.done();
    }
  }

  /** Federated evaluation. */
  public static final class Evaluation {
    /** L2 norm of what a client submits. */
    public static final double SENSITIVITY = Math.sqrt(3);

    public final int cap;
    public final double lossCap;
    public final double noiseMultiplier;

    private Evaluation(Fields of) {
      of.whole("every", 1);
      cap = of.whole("cap", 1);
      lossCap = of.positive("loss_cap");
      noiseMultiplier = of.nonnegative("noise_multiplier");
      of.done();
    }
  }

  public final String digest;
  public final int population;
  public final double samplingRate;
  public final int minimumSurvivors;
  public final String noiseSource;
  public final String mechanism;
  public final String aggregation;
  /** 0 for uniform weights. */
  public final int weightCap;
  public final ClientUnit client;
  public final RecordUnit record;
  public final Evaluation evaluation;
  public final Rules rules;
  public final Lattice updates;
  public final Lattice counts;
  /** NaN where updates aren't projected. */
  public final double projection;

  private final String relation;

  /**
   * Reads a plan.
   *
   * @param value JSON that was canonical
   * @throws TacitException PLAN: it isn't one, or promises what it doesn't keep
   */
  public Plan(Object value) {
    digest = Bytes.hex(Crypto.sha256(Json.write(value)));
    Fields of = new Fields("plan", value, Reason.PLAN);
    population = of.whole("population", 1);
    samplingRate = of.rate("sampling_rate");
    of.whole("rounds", 1);
    of.rate("client_delta");
    of.rate("record_delta");
    minimumSurvivors = of.whole("minimum_survivors", 0);
    noiseSource = of.text("noise_source");
    mechanism = of.text("mechanism");
    aggregation = of.text("aggregation");
    relation = of.text("relation");
    of.text("sampling");
    weightCap = of.given("weight_cap") ? of.whole("weight_cap", 1) : 0;
    projection = of.given("projection") ? of.positive("projection") : Double.NaN;
    Fields part = of.optional("client");
    client = part == null ? null : new ClientUnit(part);
    part = of.optional("record");
    record = part == null ? null : new RecordUnit(part);
    part = of.optional("evaluation");
    evaluation = part == null ? null : new Evaluation(part);
    part = of.optional("rules");
    rules = part == null ? null : rules(part);
    part = of.optional("updates");
    updates = part == null ? null : lattice(part);
    part = of.optional("counts");
    counts = part == null ? null : lattice(part);
    of.done();
    if (weightCap > 0 && record != null) {
      throw of.wrong("weight_cap");
    }
    if (mechanism.equals("skellam") || mechanism.equals("discrete_gaussian")) {
      checkShares(of);
    } else if (!mechanism.equals("central") || !aggregation.equals("plain")) {
      throw of.wrong("mechanism");
    } else if (rules != null || updates != null || counts != null || !Double.isNaN(projection)) {
      // Else records would seem protected by shares of noise, and none would be added.
      throw of.wrong("mechanism");
    }
  }

  private static Rules rules(Fields of) {
    Rules made =
        new Rules(
            of.whole("minimum", 1),
            of.whole("largest", 1),
            of.nonnegative("dropout"),
            of.whole("collusion", 0));
    of.done();
    return made;
  }

  private static Lattice lattice(Fields of) {
    Lattice made =
        new Lattice(
            of.whole("dimension", 1),
            of.truth("rotated"),
            of.whole("bits", 1),
            of.positive("norm"),
            of.truth("conditional"),
            of.nonnegative("variance"),
            of.nonnegative("record_norm"),
            of.whole("vote", 0));
    of.done();
    return made;
  }

  /** The lattices carry at least the noise that the units' multipliers stand for. */
  private void checkShares(Fields of) {
    if (rules == null || updates == null || (evaluation == null) != (counts == null)) {
      throw of.wrong("rules");
    }
    if (rules.minimum != minimumSurvivors || !relation.equals("zero-out")) {
      throw of.wrong("relation");
    }
    // A share is at least one of `largest`, and claimed to be one of the population.
    if (rules.largest > population) {
      throw of.wrong("rules.largest");
    }
    boolean bounded = updates.recordNorm > 0 && !Double.isNaN(projection);
    if (client == null && !(bounded && record != null && record.steps == 1)) {
      throw of.wrong("updates.record_norm");
    }
    if (client == null && counts != null && counts.recordNorm > 0) {
      if (counts.recordNorm < counts.norm / evaluation.cap * ALMOST) {
        throw of.wrong("counts.record_norm");
      }
    }
    double least = client != null ? updates.l2() * client.noiseMultiplier : 0;
    if (client == null && record != null) {
      // No plan's mean cohort is below 98% of its fewest: no rate makes a multiplier mean less.
      double cohort = Math.max(samplingRate * population, 0.98 * rules.minimum);
      least = Math.sqrt(cohort) * record.noiseMultiplier * updates.recordL2();
    }
    if (Math.sqrt(updates.variance) < least * ALMOST) {
      throw of.wrong("updates.variance");
    }
    double most = rules.largest;
    double smallest = updates.variance / (rules.dropout > 0 ? most * most : most);
    if (mechanism.equals("discrete_gaussian") && smallest > 0 && smallest < 9) {
      throw of.wrong("updates.variance");
    }
  }

  /** Whether a record is protected by the shares of noise, not by noise in DP-SGD. */
  public boolean noisedByShares() {
    return client == null && updates != null;
  }

  /**
   * Refuses a clip that the plan doesn't allow.
   *
   * @throws TacitException PLAN
   */
  public void checkClip(double bound) {
    double allowed = client != null ? client.clip : projection;
    if (Double.isNaN(allowed)) {
      return;
    }
    boolean adaptive = client != null && client.adaptive;
    boolean usable = bound > 0 && !Double.isInfinite(bound);
    if (!usable || !adaptive && bound != allowed) {
      throw new TacitException(Reason.PLAN, "the coordinator's clip isn't one the plan allows");
    }
  }
}
