package dev.tacit.edge.secagg;

/** Looks up identities that this device has pinned. */
public interface Directory {
  /** A client's Ed25519 public key, or null if it isn't known. */
  byte[] publicKey(long client);
}
