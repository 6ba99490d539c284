package dev.tacit.edge.train;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.policy.Manifest;
import java.util.HashMap;
import java.util.Map;

/**
 * Graphs that are known by their SHA-256 and computed in Java instead of being run.
 *
 * <p>Guarantees that no other graph is taken for one of them: the owner, not the coordinator, says
 * which digest is which model. It doesn't check that a graph computes what it is said to.
 */
public final class Builtin implements Runtime {
  private final Map<String, Double> softmax = new HashMap<>();

  /** A multinomial logistic regression: weight [classes, features], bias [classes]. */
  public Builtin softmax(String graph, double scale) {
    softmax.put(graph, scale);
    return this;
  }

  @Override
  public boolean needsGraphs() {
    return false;
  }

  @Override
  public Step load(Manifest manifest, byte[] graph) {
    Double scale = softmax.get(manifest.graph);
    if (scale == null) {
      throw new TacitException(Reason.UNSUPPORTED, "this graph isn't one that can be run here");
    }
    Manifest.Tensor inputs = manifest.inputs.get(1);
    Manifest.Tensor targets = manifest.inputs.get(2);
    long features = inputs.size() / manifest.microbatch;
    boolean fits = inputs.dtype.equals("float32") && targets.dtype.equals("int64");
    fits = fits && targets.shape.length == 1 && manifest.parameters.size() == 2;
    int[] weight = fits ? manifest.parameters.get(0).shape : new int[0];
    int[] bias = fits ? manifest.parameters.get(1).shape : new int[0];
    fits = fits && weight.length == 2 && bias.length == 1;
    if (!fits || weight[1] != features || weight[0] != bias[0]) {
      throw new TacitException(Reason.UNSUPPORTED, "the graph's shapes aren't the model's");
    }
    return new Softmax(weight[0], weight[1], scale);
  }
}
