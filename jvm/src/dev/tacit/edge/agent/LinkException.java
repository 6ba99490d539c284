package dev.tacit.edge.agent;

/** The gateway can't be reached, ended the stream, or doesn't keep to the protocol. */
final class LinkException extends Exception {
  private static final long serialVersionUID = 1L;

  LinkException(String message) {
    super(message);
  }
}
