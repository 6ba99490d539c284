package dev.tacit.edge.secagg;

/** What tests look at inside. */
public final class Probe {
  private Probe() {}

  /** Degree, threshold and side. */
  public static int[] choice(int size, int corrupted, double dropout) {
    Graph.Choice found = Graph.choose(size, corrupted, dropout);
    return new int[] {found.degree, found.threshold, found.side};
  }

  /** Neighbours on either side. */
  public static int[][] sides(int position, int size, int degree, byte[] seed) {
    return Graph.sides(position, Graph.circle(size, seed), degree);
  }
}
