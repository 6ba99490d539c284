package dev.tacit.edge.train;

import dev.tacit.edge.policy.Manifest;

/**
 * What runs signed graphs.
 *
 * <p>On Android that is the artifact onnxruntime-android, whose {@code OrtSession} takes the
 * inputs of the manifest by their names; it isn't to be had where this is built, so an adapter to
 * it isn't here. {@link Builtin} has the graphs that this agent computes itself.
 */
public interface Runtime {
  /** Whether the bytes of a graph are needed to load it. */
  boolean needsGraphs();

  /**
   * Loads a graph whose bytes are the manifest's.
   *
   * @param manifest signed by the coordinator
   * @param graph its bytes; null unless {@link #needsGraphs}
   * @throws dev.tacit.edge.TacitException UNSUPPORTED: it can't be run here
   */
  Step load(Manifest manifest, byte[] graph);
}
