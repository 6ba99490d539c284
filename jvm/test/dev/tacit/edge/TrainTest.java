package dev.tacit.edge;

import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.noise.Encoder;
import dev.tacit.edge.policy.RunDocument;
import dev.tacit.edge.train.Builtin;
import dev.tacit.edge.train.Records;
import dev.tacit.edge.train.Step;
import dev.tacit.edge.train.Trainer;
import dev.tacit.edge.wire.Json;
import java.util.Arrays;
import java.util.Map;

/** Against runs.json: the built-in model is what the exported graph computes. */
final class TrainTest {
  private static final Map<String, Object> ALL = Check.vectors("runs.json");
  /** The graph is in single precision; what it adds up, in double. */
  private static final double SINGLE = 2e-6;

  private TrainTest() {}

  private static RunDocument document(int run) {
    Map<String, Object> one = Json.object(Check.list(ALL, "runs").get(run));
    return RunDocument.decode(Check.hex(one, "document"), Check.hex(ALL, "coordinator"));
  }

  private static float[] singles(String name) {
    double[] wide = Check.reals(ALL.get(name));
    float[] out = new float[wide.length];
    for (int i = 0; i < out.length; i++) {
      out[i] = (float) wide[i];
    }
    return out;
  }

  private static Records records() {
    return new Records(singles("inputs"), Check.longs(ALL.get("targets")), new int[] {6});
  }

  private static Records spoilt() {
    Map<String, Object> how = Check.object(ALL, "spoilt");
    int[] nan = Check.ints(how.get("nan"));
    int[] infinite = Check.ints(how.get("infinite"));
    float[] inputs = singles("inputs");
    inputs[6 * nan[0] + nan[1]] = Float.NaN;
    inputs[6 * infinite[0] + infinite[1]] = Float.POSITIVE_INFINITY;
    return new Records(inputs, Check.longs(ALL.get("targets")), new int[] {6});
  }

  private static Builtin runtime(RunDocument of) {
    double scale = Check.real(ALL.get("scale"));
    return new Builtin().softmax(of.step.graph, scale).softmax(of.evaluation.graph, scale);
  }

  private static void near(String what, String name, double[] found) {
    double[] due = Check.reals(ALL.get(name));
    Check.same(what, due.length, found.length);
    double whole = Encoder.norm(due);
    for (int i = 0; i < due.length; i++) {
      Check.that(what + i, Math.abs(due[i] - found[i]) <= SINGLE * whole);
    }
  }

  static void testSums() {
    RunDocument about = document(0);
    Step step = runtime(about).load(about.step, null);
    float[] parameters = singles("parameters");
    int[] all = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    near("clipped", "sum", step.sum(parameters, records(), all, 0.7));
    near("unclipped", "loose", step.sum(parameters, records(), all, 1000));
    int[] rows = Check.ints(Check.object(ALL, "spoilt").get("rows"));
    near("spoilt", "spoilt_sum", step.sum(parameters, spoilt(), rows, 0.7));
  }

  /** What the plan's sensitivity rests on. */
  static void testNoRowAddsMoreThanTheClip() {
    RunDocument about = document(0);
    Step step = runtime(about).load(about.step, null);
    float[] parameters = singles("parameters");
    float[] huge = singles("inputs");
    for (int i = 0; i < huge.length; i++) {
      huge[i] *= i % 7 == 0 ? 1e18f : 1;
    }
    long[] targets = Check.longs(ALL.get("targets"));
    targets[3] = 3;
    targets[4] = -1;
    Records records = new Records(huge, targets, new int[] {6});
    for (double clip : new double[] {1e-3, 0.7, 5}) {
      for (int row = 0; row < records.size(); row++) {
        double[] one = step.sum(parameters, records, new int[] {row}, clip);
        Check.that("row " + row, Encoder.norm(one) < clip);
        boolean counts = row != 3 && row != 4;
        Check.that("a class that isn't one", counts || Encoder.norm(one) == 0);
      }
    }
    Arrays.fill(parameters, Float.NaN);
    double[] none = step.sum(parameters, records, new int[] {0, 1}, 1);
    Check.that("a model that isn't finite", Encoder.norm(none) == 0);
  }

  static void testScores() {
    RunDocument about = document(0);
    Step step = runtime(about).load(about.evaluation, null);
    int[] all = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    double[][] found = step.scores(singles("parameters"), spoilt(), all);
    double[] scores = Check.reals(ALL.get("spoilt_scores"));
    double[] losses = Check.reals(ALL.get("spoilt_losses"));
    for (int i = 0; i < all.length; i++) {
      Check.near("score", scores[i], found[0][i], 0);
      Check.near("loss", losses[i], found[1][i], 1e-5);
    }
  }

  static void testUpdates() {
    for (int run = 0; run < 2; run++) {
      RunDocument about = document(run);
      Map<String, Object> one = Json.object(Check.list(ALL, "runs").get(run));
      Trainer trainer = new Trainer(TrainTest::records, runtime(about), manifest -> null);
      trainer.fits(about, "train");
      double[] due = Check.reals(one.get("update"));
      double[] found = trainer.train(about, singles("parameters"));
      double whole = Encoder.norm(due);
      Check.that("it moves", whole > 0.01);
      for (int i = 0; i < due.length; i++) {
        Check.that("coordinate " + i, Math.abs(due[i] - found[i]) <= 4 * SINGLE * whole);
      }
      double[] counts = trainer.counts(about, singles("parameters"));
      double[] wanted = Check.reals(one.get("counts"));
      for (int i = 0; i < 3; i++) {
        Check.near("count", wanted[i], counts[i], 1e-5);
      }
    }
  }

  static void testOtherGraphsAreRefused() {
    RunDocument about = document(0);
    Check.refused("graph", Reason.UNSUPPORTED, () -> new Builtin().load(about.step, null));
    Records flat = new Records(new float[8], new long[2], new int[] {4});
    Trainer trainer = new Trainer(() -> flat, runtime(about), manifest -> null);
    Check.refused("records", Reason.UNSUPPORTED, () -> trainer.fits(about, "train"));
  }
}
