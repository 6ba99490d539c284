package dev.tacit.edge;

/**
 * A failure that is somebody's to mend, with the number by which a refusal names it.
 *
 * <p>The text names settings and states of the protocol, never data. Anything else that escapes
 * is a bug; the agent then says {@link Reason#FAILED} and nothing more.
 */
public final class TacitException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** Reasons of `Refusal.Reason` in edge.proto, by their numbers there. */
  public enum Reason {
    ROUNDS(1),
    EPSILON(2),
    SEPARATION(3),
    FLOOR(4),
    PLAN(5),
    UNSIGNED(6),
    UNSUPPORTED(7),
    PROTOCOL(8),
    MALFORMED(9),
    INELIGIBLE(10),
    FAILED(11);

    private final int number;

    Reason(int number) {
      this.number = number;
    }

    /** The number on the wire. */
    public int number() {
      return number;
    }
  }

  private final Reason reason;

  /**
   * A refusal.
   *
   * @param reason what kind
   * @param message what is wrong, with the offending {@code name=value}
   */
  public TacitException(Reason reason, String message) {
    super(message);
    this.reason = reason;
  }

  /** A refusal with the error that led to it. */
  public TacitException(Reason reason, String message, Throwable cause) {
    super(message, cause);
    this.reason = reason;
  }

  /** Bytes that aren't a message of the protocol. */
  public static TacitException malformed(String message) {
    return new TacitException(Reason.MALFORMED, message);
  }

  /** What secure aggregation's rules forbid. */
  public static TacitException protocol(String message) {
    return new TacitException(Reason.PROTOCOL, message);
  }

  /** The kind. */
  public Reason reason() {
    return reason;
  }
}
