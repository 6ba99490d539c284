package dev.tacit.edge.train;

import dev.tacit.edge.noise.Encoder;

/**
 * Multinomial logistic regression on scaled inputs: cross-entropy's gradient, clipped by record.
 *
 * <p>In doubles. The gradient of a record with inputs x, probabilities p and target y is (p - e_y)
 * (x, 1)^T, so its squared norm is |p - e_y|^2 (|x|^2 + 1).
 */
final class Softmax implements Step {
  private final int classes;
  private final int features;
  private final double scale;

  Softmax(int classes, int features, double scale) {
    this.classes = classes;
    this.features = features;
    this.scale = scale;
  }

  @Override
  public double[] sum(float[] parameters, Records records, int[] rows, double clip) {
    double[] total = new double[classes * (features + 1)];
    double[] inputs = new double[features];
    for (int row : rows) {
      double length = inputs(records, row, inputs);
      int target = target(records, row);
      if (target < 0) {
        continue;
      }
      double[] error = probabilities(logits(parameters, inputs));
      error[target] -= 1;
      double norm = Encoder.norm(error) * Math.sqrt(length + 1);
      // As the trainer, whose squares are in single precision.
      if (!(norm * norm <= Float.MAX_VALUE)) {
        continue;
      }
      double factor = Math.min(1, Encoder.MARGIN * clip / (norm + 1e-12));
      for (int c = 0; c < classes; c++) {
        double by = factor * error[c];
        for (int f = 0; f < features; f++) {
          total[c * features + f] += by * inputs[f];
        }
        total[classes * features + c] += by;
      }
    }
    return total;
  }

  @Override
  public double[][] scores(float[] parameters, Records records, int[] rows) {
    double[][] found = new double[2][rows.length];
    double[] inputs = new double[features];
    for (int i = 0; i < rows.length; i++) {
      double length = inputs(records, rows[i], inputs);
      int target = target(records, rows[i]);
      double[] logits = logits(parameters, inputs);
      int best = 0;
      for (int c = 1; c < classes; c++) {
        best = logits[c] > logits[best] ? c : best;
      }
      double loss = target < 0 ? Double.NaN : logSum(logits) - logits[target];
      boolean finite = !Double.isNaN(length + loss) && !Double.isInfinite(length + loss);
      found[0][i] = finite && best == target ? 1 : 0;
      found[1][i] = finite ? loss : Float.MAX_VALUE;
    }
    return found;
  }

  /** A record's class; -1 if it isn't one, and then the row doesn't count. */
  private int target(Records records, int row) {
    long target = records.targets[row];
    return target >= 0 && target < classes ? (int) target : -1;
  }

  /** Fills in a record's scaled inputs; returns their squared length. */
  private double inputs(Records records, int row, double[] inputs) {
    double length = 0;
    for (int f = 0; f < features; f++) {
      inputs[f] = scale * records.inputs[row * features + f];
      length += inputs[f] * inputs[f];
    }
    return length;
  }

  private double[] logits(float[] parameters, double[] inputs) {
    double[] logits = new double[classes];
    for (int c = 0; c < classes; c++) {
      double total = parameters[classes * features + c];
      for (int f = 0; f < features; f++) {
        total += parameters[c * features + f] * inputs[f];
      }
      logits[c] = total;
    }
    return logits;
  }

  private static double logSum(double[] logits) {
    double most = Double.NEGATIVE_INFINITY;
    for (double logit : logits) {
      most = Math.max(most, logit);
    }
    double total = 0;
    for (double logit : logits) {
      total += Math.exp(logit - most);
    }
    return most + Math.log(total);
  }

  private static double[] probabilities(double[] logits) {
    double whole = logSum(logits);
    double[] found = new double[logits.length];
    for (int c = 0; c < found.length; c++) {
      found[c] = Math.exp(logits[c] - whole);
    }
    return found;
  }
}
