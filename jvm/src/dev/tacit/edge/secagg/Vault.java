package dev.tacit.edge.secagg;

/**
 * What a device remembers between two messages, durably: its promises and its secrets.
 *
 * <p>Every implementation guarantees: {@link #open} accepts a session only if it is newer than
 * every earlier one of its run and purpose; {@link #advance} moves a session forward by one
 * phase, once; and what either was given is on disk before it returns, the answer included. A
 * device that is killed and started again gives the same answer or none. `tacit.privacy.secagg
 * .vault` is the same on SQLite, as an Android one should be; {@link FileVault} is on files.
 */
public interface Vault {
  /** Phase and secrets of a session. */
  final class Held {
    public final String phase;
    public final Secrets secrets;

    /** A session as it is. */
    public Held(String phase, Secrets secrets) {
      this.phase = phase;
      this.secrets = secrets;
    }
  }

  /** An answer to a leg, with the SHA-256 of the request that it answers. */
  final class Given {
    public final String kind;
    public final byte[] request;
    public final byte[] answer;

    /** An answer about to be given. */
    public Given(String kind, byte[] request, byte[] answer) {
      this.kind = kind;
      this.request = request;
      this.answer = answer;
    }
  }

  /**
   * Begins a session, in phase "advertised".
   *
   * @throws dev.tacit.edge.TacitException PROTOCOL: this or a later one of its run and purpose
   *     was begun before
   */
  void open(Secrets secrets, Given answer);

  /**
   * A session.
   *
   * @throws dev.tacit.edge.TacitException PROTOCOL: there is no such session, or it is over
   */
  Held read(String session);

  /**
   * Moves a session from one phase to the next, durably, before anything is said.
   *
   * @throws dev.tacit.edge.TacitException PROTOCOL: it isn't in phase {@code before}
   */
  void advance(String session, String before, String after, Secrets secrets, Given answer);

  /** The answer given to this very request, or null; null also if the session has gone on. */
  byte[] answered(String session, String kind, byte[] request);
}
