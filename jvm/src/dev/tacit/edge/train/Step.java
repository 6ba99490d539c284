package dev.tacit.edge.train;

/**
 * A model's step and score, on rows of records: what a graph of `tacit.tasks.device` computes.
 *
 * <p>Guarantees that every implementation has to give, for they are what the plan's sensitivity
 * rests on: a row adds to {@link #sum} a vector of L2 norm at most {@code clip}, and none if it
 * holds, or leads to, what isn't finite; no row changes what another adds. Added in doubles.
 */
public interface Step {
  /**
   * The sum of clipped per-example gradients.
   *
   * @param parameters the model, in the manifest's order
   * @param records of the device
   * @param rows which of them
   * @param clip L2 bound of a row's gradient
   */
  double[] sum(float[] parameters, Records records, int[] rows, double clip);

  /**
   * Score and loss of each row.
   *
   * @return two rows: scores in [0, 1], and losses
   */
  double[][] scores(float[] parameters, Records records, int[] rows);
}
