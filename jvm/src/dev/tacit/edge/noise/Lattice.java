package dev.tacit.edge.noise;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;

/** How a bounded vector becomes integers; `tacit.privacy.discrete.lattice`. */
public final class Lattice {
  private static final double LN_INVERSE_BETA = 2.0;
  private static final double LN_INVERSE_NEVER = 100.0 * Math.log(2);
  private static final double SLACK = 1.0 + 1.0 / 1024;
  private static final double LARGEST_DEVIATION = 32768;

  public final int dimension;
  public final boolean rotated;
  public final int bits;
  public final double norm;
  public final boolean conditional;
  public final double variance;
  public final double recordNorm;
  public final int vote;

  /**
   * A lattice of a plan; see there for what the values mean.
   *
   * @throws TacitException PLAN: a value that no plan has
   */
  public Lattice(
      int dimension,
      boolean rotated,
      int bits,
      double norm,
      boolean conditional,
      double variance,
      double recordNorm,
      int vote) {
    boolean fits = dimension >= 1 && dimension <= 1 << 28 && vote >= 0;
    fits = fits && (bits == 16 || bits == 20 || bits == 32);
    fits = fits && norm > 0 && !Double.isInfinite(norm) && recordNorm >= 0;
    fits = fits && !(conditional && recordNorm > 0) && variance >= 0;
    if (!fits || variance > LARGEST_DEVIATION * LARGEST_DEVIATION * (1 + 1e-9)) {
      throw new TacitException(Reason.PLAN, "a lattice of the plan can't be");
    }
    this.dimension = dimension;
    this.rotated = rotated;
    this.bits = bits;
    this.norm = norm;
    this.conditional = conditional;
    this.variance = variance;
    this.recordNorm = recordNorm;
    this.vote = vote;
  }

  /** Coordinates after padding, without the vote. */
  public int coordinates() {
    return rotated ? Rotation.padded(dimension) : dimension;
  }

  /** Words that a client sends. */
  public int length() {
    return coordinates() + (vote > 0 ? 1 : 0);
  }

  /** Largest L2 norm of the rounded vector, without the vote. */
  public double bound() {
    return conditional
        ? rounded(norm, coordinates(), LN_INVERSE_BETA)
        : norm + Math.sqrt(coordinates());
  }

  /** L2 sensitivity to one client. */
  public double l2() {
    return Math.hypot(bound(), vote);
  }

  /** L2 sensitivity to one record. */
  public double recordL2() {
    if (recordNorm == 0) {
      return 2 * bound();
    }
    return Math.min(rounded(recordNorm * SLACK, coordinates(), LN_INVERSE_NEVER), 2 * bound());
  }

  private static double rounded(double norm, int coordinates, double lnInverseBeta) {
    double root = Math.sqrt(coordinates);
    double spread = Math.sqrt(2 * lnInverseBeta) * (norm + root / 2);
    return Math.min(Math.sqrt(norm * norm + coordinates / 4.0 + spread), norm + root);
  }
}
