package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;

/** What a plan fixes about secure aggregation; `tacit.privacy.secagg.cohort.Rules`. */
public final class Rules {
  private static final int SMALLEST = 3;

  public final int minimum;
  public final int largest;
  public final double dropout;
  public final int collusion;

  /**
   * The rules.
   *
   * @param minimum fewest vectors in a sum
   * @param largest most clients in a roster
   * @param dropout fraction of a cohort that may drop, below 1/3
   * @param collusion clients that may collude with the coordinator
   * @throws TacitException PLAN: they promise nothing
   */
  public Rules(int minimum, int largest, double dropout, int collusion) {
    if (minimum < SMALLEST
        || largest < minimum
        || !(dropout >= 0 && dropout < 1.0 / 3)
        || collusion < 0
        || minimum <= 3L * collusion) {
      throw new TacitException(Reason.PLAN, "the plan's rules of a cohort can't be");
    }
    this.minimum = minimum;
    this.largest = largest;
    this.dropout = dropout;
    this.collusion = collusion;
  }

  Graph.Choice choice(int size) {
    return Graph.choose(size, collusion, dropout);
  }

  /** How many of so many clients may drop. */
  public int layers(int clients) {
    int least = Math.max(Math.max(minimum, quorum(clients)), 2 * (clients - 1) / 3 + 2);
    int tolerated = (int) Math.floor(clients * dropout);
    return Math.max(0, Math.min(tolerated, clients - least));
  }

  /** Fewest of so many members whose vectors may make a sum. */
  public int survivors(int members) {
    return Math.max(minimum, members - layers(members));
  }

  /** Signatures on one set of survivors: more than two thirds of the roster. */
  public int quorum(int size) {
    return 2 * size / 3 + 1;
  }
}
