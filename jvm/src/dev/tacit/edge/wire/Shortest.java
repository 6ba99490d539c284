package dev.tacit.edge.wire;

import java.math.BigDecimal;
import java.math.MathContext;
import java.math.RoundingMode;

/**
 * The shortest decimal that rounds to a double, the nearest of those (ECMA-262).
 *
 * <p>Own code, since {@code Double.toString} isn't shortest before JDK 19, nor on every Android.
 */
final class Shortest {
  private Shortest() {}

  /** The decimal of a value above 0; no trailing zeros. */
  static BigDecimal of(double value) {
    BigDecimal exact = new BigDecimal(value);
    for (int digits = 1; digits < 17; digits++) {
      BigDecimal below = exact.round(new MathContext(digits, RoundingMode.DOWN));
      BigDecimal above = exact.round(new MathContext(digits, RoundingMode.UP));
      boolean low = below.doubleValue() == value;
      boolean high = above.doubleValue() == value;
      if (low && high) {
        int nearer = exact.subtract(below).compareTo(above.subtract(exact));
        // Of two that are as near, the even one.
        boolean even = !below.unscaledValue().testBit(0);
        return (nearer < 0 || nearer == 0 && even ? below : above).stripTrailingZeros();
      }
      if (low || high) {
        return (low ? below : above).stripTrailingZeros();
      }
    }
    return exact.round(new MathContext(17, RoundingMode.HALF_EVEN)).stripTrailingZeros();
  }
}
