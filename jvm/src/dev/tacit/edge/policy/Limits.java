package dev.tacit.edge.policy;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;

/**
 * What a device's owner insists on, whatever plan a coordinator proposes.
 *
 * <p>The names are those of `tacit.client.floors`; where the owner says nothing only secure
 * aggregation will do, and no noise from a simulation's seed. Limits on epsilon can't be kept
 * here, since that takes an accountant, so they are refused instead of ignored: limit the rounds.
 */
public final class Limits {
  public final boolean secure;
  public final boolean seeded;
  public final int survivors;
  public final double noiseMultiplier;
  public final double recordNoiseMultiplier;
  public final double clip;
  public final int bits;
  /** Most participations; -1 for no limit. */
  public final int rounds;
  /** Seconds between participations of different rounds. */
  public final double separation;

  /**
   * Reads limits.
   *
   * @param value a JSON object; what isn't in it has its default
   * @throws TacitException FAILED: a limit is unknown, out of range, or can't be kept
   */
  public Limits(Object value) {
    Fields of = new Fields("limits", value, Reason.FAILED);
    for (String name : new String[] {"epsilon", "record_epsilon"}) {
      if (of.has(name)) {
        throw new TacitException(
            Reason.FAILED, "limits." + name + " can't be kept by this agent: limit the rounds");
      }
    }
    secure = !of.has("secure") || of.truth("secure");
    seeded = of.has("seeded") && of.truth("seeded");
    survivors = of.has("survivors") ? of.whole("survivors", 0) : 0;
    noiseMultiplier = of.has("noise_multiplier") ? of.nonnegative("noise_multiplier") : 0;
    recordNoiseMultiplier =
        of.has("record_noise_multiplier") ? of.nonnegative("record_noise_multiplier") : 0;
    clip = of.has("clip") ? of.positive("clip") : Double.POSITIVE_INFINITY;
    bits = of.has("bits") ? of.whole("bits", 0) : 0;
    rounds = of.has("rounds") ? of.whole("rounds", 0) : -1;
    separation = of.has("separation") ? of.nonnegative("separation") : 0;
    of.done();
  }

  /**
   * Refuses a plan that promises less.
   *
   * @throws TacitException FLOOR, naming it
   */
  public void check(Plan plan) {
    double multiplier = plan.client != null ? plan.client.noiseMultiplier : 0;
    floor(!secure || plan.aggregation.equals("secure"), "aggregation");
    floor(plan.minimumSurvivors >= survivors, "minimum_survivors");
    floor(multiplier >= noiseMultiplier, "privacy.client.noise_multiplier");
    floor(evaluated(plan) >= noiseMultiplier * (1 - 1e-9), "evaluation.noise_multiplier");
    floor(
        plan.record == null || plan.record.noiseMultiplier >= recordNoiseMultiplier,
        "privacy.record.noise_multiplier");
    floor((plan.updates != null ? plan.updates.bits : 32) >= bits, "secure.bits");
    floor(seeded || plan.noiseSource.equals("os-csprng"), "noise_source");
    checkClip(plan.client != null ? plan.client.clip : 0);
  }

  /** Noise over client-level sensitivity in a federated evaluation; infinite without one. */
  private static double evaluated(Plan plan) {
    if (plan.evaluation == null) {
      return Double.POSITIVE_INFINITY;
    }
    boolean shares = plan.counts != null;
    double noise = plan.evaluation.noiseMultiplier;
    return shares ? Math.sqrt(plan.counts.variance) / plan.counts.l2() : noise;
  }

  private static void floor(boolean holds, String name) {
    if (!holds) {
      throw new TacitException(
          Reason.FLOOR, "the plan's " + name + " is below this device's floor");
    }
  }

  /**
   * Refuses a clip above the owner's.
   *
   * @throws TacitException FLOOR
   */
  public void checkClip(double bound) {
    if (bound > clip) {
      throw new TacitException(Reason.FLOOR, "clip is above this device's limit");
    }
  }
}
