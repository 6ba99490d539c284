package dev.tacit.edge.noise;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.List;

/**
 * Symmetric laws on the integers, as exact integer weights: `tacit.privacy.discrete.pmf`.
 *
 * <p>All is integer arithmetic on the rational number that the double {@code variance} is, so the
 * figures are those of every other implementation, bit for bit: a coordinator regenerates
 * surplus layers of noise from their seeds. The bounds on the distance to the named law are
 * proved there.
 */
public final class Law {
  static final int FRACTION_BITS = 256;
  private static final double MAXIMUM_VARIANCE = 1 << 30;
  private static final long TAIL_NATS = 122;
  private static final int MILLER_BITS = 192;
  private static final int GAUSSIAN_BITS = 320;
  private static final int GUARD_BITS = 64;

  public final String name;
  public final double variance;

  /**
   * A law.
   *
   * @param name "skellam" or "discrete_gaussian"
   * @param variance above 0, at most 2^30
   */
  public Law(String name, double variance) {
    if (!(variance > 0 && variance <= MAXIMUM_VARIANCE)) {
      throw new IllegalArgumentException("variance=" + variance + " must be in (0, 2^30]");
    }
    if (!name.equals("skellam") && !name.equals("discrete_gaussian")) {
      throw new IllegalArgumentException("mechanism=" + name + " is unknown");
    }
    this.name = name;
    this.variance = variance;
  }

  /** The largest magnitude with a weight. */
  int reach() {
    long ceiling = (long) Math.ceil(variance);
    BigInteger root =
        BigInteger.valueOf(TAIL_NATS * TAIL_NATS / 9 + 1 + 2 * TAIL_NATS * ceiling).sqrt();
    return (int) (TAIL_NATS / 3 + root.longValueExact() + 2);
  }

  /** Integers proportional to the probabilities of 0, 1, ..., {@link #reach}. */
  List<BigInteger> weights() {
    return name.equals("skellam") ? skellam() : gaussian();
  }

  private List<BigInteger> skellam() {
    BigInteger[] ratio = ratio(variance);
    int last = reach();
    BigInteger above = BigInteger.ONE.shiftLeft(MILLER_BITS);
    BigInteger here = above;
    BigInteger[] made = new BigInteger[last + 1];
    for (int k = last; k > 0; k--) {
      made[k] = here;
      BigInteger factor = BigInteger.valueOf(2L * k).multiply(ratio[1]);
      BigInteger below = above.add(factor.multiply(here).divide(ratio[0]));
      above = here;
      here = below;
    }
    made[0] = here;
    return List.of(made);
  }

  private List<BigInteger> gaussian() {
    BigInteger[] of = ratio(variance);
    BigInteger ratio = expNegative(of[1], of[0].shiftLeft(1));
    BigInteger square = expNegative(of[1], of[0]);
    BigInteger weight = BigInteger.ONE.shiftLeft(GAUSSIAN_BITS);
    List<BigInteger> made = new ArrayList<>();
    made.add(weight);
    for (int i = reach(); i > 0; i--) {
      weight = weight.multiply(ratio).shiftRight(GAUSSIAN_BITS);
      ratio = ratio.multiply(square).shiftRight(GAUSSIAN_BITS);
      made.add(weight);
    }
    return made;
  }

  /** exp(-numerator/denominator) in steps of 2^-320, to within 2 steps. */
  private static BigInteger expNegative(BigInteger numerator, BigInteger denominator) {
    if (numerator.compareTo(denominator.multiply(BigInteger.valueOf(GAUSSIAN_BITS))) >= 0) {
      return BigInteger.ZERO;
    }
    int halvings = 8 + numerator.divide(denominator).add(BigInteger.ONE).bitLength();
    int scale = GAUSSIAN_BITS + GUARD_BITS;
    BigInteger x = numerator.shiftLeft(scale).divide(denominator.shiftLeft(halvings));
    BigInteger term = BigInteger.ONE.shiftLeft(scale);
    BigInteger total = term;
    for (int order = 1; term.signum() != 0; order++) {
      term = term.multiply(x).divide(BigInteger.valueOf(order).shiftLeft(scale));
      total = order % 2 == 1 ? total.subtract(term) : total.add(term);
    }
    for (int i = 0; i < halvings; i++) {
      total = total.multiply(total).shiftRight(scale);
    }
    return total.shiftRight(GUARD_BITS);
  }

  /** P(|X| >= k) for k = 1, 2, ... in steps of 2^-bits, rounded down; no zeros at the end. */
  static List<BigInteger> survival(List<BigInteger> weights, int bits) {
    int last = weights.size() - 1;
    BigInteger[] tails = new BigInteger[last];
    BigInteger sum = BigInteger.ZERO;
    for (int k = last; k > 0; k--) {
      sum = sum.add(weights.get(k));
      tails[k - 1] = sum;
    }
    BigInteger total = weights.get(0).add(sum.shiftLeft(1));
    List<BigInteger> made = new ArrayList<>();
    for (BigInteger tail : tails) {
      BigInteger step = tail.shiftLeft(bits + 1).divide(total);
      if (step.signum() == 0) {
        break;
      }
      made.add(step);
    }
    return made;
  }

  /** Numerator and denominator of a double above 0, in lowest terms. */
  private static BigInteger[] ratio(double value) {
    long bits = Double.doubleToLongBits(value);
    int exponent = (int) (bits >> 52 & 0x7FF);
    long mantissa = bits & (1L << 52) - 1;
    mantissa = exponent == 0 ? mantissa << 1 : mantissa | 1L << 52;
    int power = exponent - 1075;
    int zeros = Long.numberOfTrailingZeros(mantissa);
    mantissa >>= zeros;
    power += zeros;
    BigInteger whole = BigInteger.valueOf(mantissa);
    return power >= 0
        ? new BigInteger[] {whole.shiftLeft(power), BigInteger.ONE}
        : new BigInteger[] {whole, BigInteger.ONE.shiftLeft(-power)};
  }
}
