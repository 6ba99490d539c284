package dev.tacit.edge.train;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.policy.Manifest;
import dev.tacit.edge.policy.Plan;
import dev.tacit.edge.policy.RunDocument;
import java.util.Arrays;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * Local training: DP-SGD by a {@link Step}, with this device's own noise.
 *
 * <p>The mechanism of `tacit.client.edge.steps`: one step releases the sum of the clipped gradients
 * of a Poisson-sampled batch plus N(0, (z clip)^2), over the plan's denominator. Where the plan's
 * shares of noise protect records, none is added here, and the one step stays in doubles.
 */
public final class Trainer {
  private final Supplier<Records> data;
  private final Runtime runtime;
  private final Function<Manifest, byte[]> graphs;

  /**
   * Trains on records that are read anew for each task.
   *
   * @param graphs gives a graph's bytes, where the runtime needs them
   */
  public Trainer(Supplier<Records> data, Runtime runtime, Function<Manifest, byte[]> graphs) {
    this.data = data;
    this.runtime = runtime;
    this.graphs = graphs;
  }

  /** Whether graphs have to be downloaded. */
  public boolean needsGraphs() {
    return runtime.needsGraphs();
  }

  private Step step(Manifest manifest, Records records) {
    byte[] graph = runtime.needsGraphs() ? graphs.apply(manifest) : null;
    if (graph != null) {
      manifest.check(graph);
    }
    records.fit(manifest);
    return runtime.load(manifest, graph);
  }

  /**
   * Refuses what can't be run here, by types and shapes alone.
   *
   * @throws TacitException UNSUPPORTED
   */
  public void fits(RunDocument document, String purpose) {
    step(purpose.equals("train") ? document.step : document.evaluation, data.get());
  }

  /** Local minus global, not clipped. */
  public double[] train(RunDocument document, float[] parameters) {
    Records records = data.get();
    Step step = step(document.step, records);
    Plan.RecordUnit unit = document.plan.record;
    checkSize(document.step, parameters);
    Normals random = new Normals();
    if (document.plan.noisedByShares()) {
      if (unit.steps != 1) {
        throw new TacitException(Reason.PLAN, "noise in shares protects records of one step");
      }
      double scale = -document.learningRate / unit.denominator;
      double[] sum = step.sum(parameters, records, drawn(random, records, unit), unit.clip);
      return Arrays.stream(sum).map(value -> value * scale).toArray();
    }
    float[] here = parameters.clone();
    double deviation = unit.noiseMultiplier * unit.clip;
    float rate = (float) document.learningRate;
    for (int i = 0; i < unit.steps; i++) {
      double[] sum = step.sum(here, records, drawn(random, records, unit), unit.clip);
      for (int k = 0; k < here.length; k++) {
        double total = sum[k];
        if (deviation > 0) {
          // Before anything is rounded: how the sum rounds depends on each record.
          total += random.normal() * deviation;
        }
        float moved = (float) (total / unit.denominator);
        // FedProx: which no record influences beyond the model.
        moved += (float) document.proximal * (here[k] - parameters[k]);
        here[k] -= rate * moved;
      }
    }
    double[] update = new double[here.length];
    Arrays.setAll(update, k -> here[k] - parameters[k]);
    return update;
  }

  private static int[] drawn(Normals random, Records records, Plan.RecordUnit unit) {
    int[] found = new int[records.size()];
    int count = 0;
    for (int row = 0; row < found.length; row++) {
      if (random.coin(unit.samplingRate)) {
        found[count++] = row;
      }
    }
    return Arrays.copyOf(found, count);
  }

  /** What a federated evaluation gets of this device: score, records and loss over the cap. */
  public double[] counts(RunDocument document, float[] parameters) {
    Records records = data.get();
    Step step = step(document.evaluation, records);
    checkSize(document.evaluation, parameters);
    Plan.Evaluation how = document.plan.evaluation;
    int[] rows = new int[Math.min(how.cap, records.size())];
    Arrays.setAll(rows, row -> row);
    double[][] found = step.scores(parameters, records, rows);
    double[] sums = {0, rows.length, 0};
    for (int i = 0; i < rows.length; i++) {
      sums[0] += Math.min(1, Math.max(0, found[0][i]));
      sums[2] += Math.min(how.lossCap, Math.max(0, found[1][i])) / how.lossCap;
    }
    Normals random = new Normals();
    boolean own = document.plan.record != null && !document.plan.noisedByShares();
    for (int i = 0; i < sums.length; i++) {
      if (own) {
        double z = document.plan.record.noiseMultiplier;
        sums[i] += z * Plan.Evaluation.SENSITIVITY * random.normal();
      }
      sums[i] = (float) (sums[i] / how.cap);
    }
    return sums;
  }

  private static void checkSize(Manifest manifest, float[] parameters) {
    if (parameters.length != manifest.size()) {
      throw TacitException.malformed("parameters aren't as many as the graph's");
    }
  }
}
