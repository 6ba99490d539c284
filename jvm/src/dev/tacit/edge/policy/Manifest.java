package dev.tacit.edge.policy;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** What a device must know of a graph before it runs it; `tacit.protocol.manifest`. */
public final class Manifest {
  private static final int LARGEST_GRAPH = 1 << 26;
  private static final int MOST_PARAMETERS = 1 << 24;
  private static final int MOST_ROWS = 1 << 12;
  private static final long MOST_NUMBERS = 1 << 28;

  /** Name, element type and shape of what a graph takes, gives, or trains. */
  public static final class Tensor {
    public final String name;
    public final String dtype;
    public final int[] shape;

    private Tensor(Object value) {
      Fields of = new Fields("tensor", value, Reason.UNSIGNED);
      name = of.text("name");
      dtype = of.text("dtype");
      shape = of.list("shape").stream().mapToInt(Tensor::length).toArray();
      of.done();
      if (size() > MOST_NUMBERS) {
        throw of.wrong("shape");
      }
    }

    private static int length(Object value) {
      boolean fits = value instanceof dev.tacit.edge.wire.Json.Number;
      String digits = fits ? value.toString() : "";
      if (!digits.matches("[1-9][0-9]{0,8}")) {
        throw new TacitException(Reason.UNSIGNED, "a tensor's shape isn't one");
      }
      return Integer.parseInt(digits);
    }

    /** How many numbers it holds. */
    public long size() {
      long found = 1;
      for (int length : shape) {
        found = Math.min(found * length, MOST_NUMBERS + 1);
      }
      return found;
    }

    /** The shape of one record. */
    public int[] each() {
      return Arrays.copyOfRange(shape, 1, shape.length);
    }
  }

  public final String kind;
  public final String task;
  public final List<Tensor> inputs;
  public final List<Tensor> outputs;
  public final List<Tensor> parameters;
  public final int microbatch;
  /** SHA-256 of the graph, in hex. */
  public final String graph;
  public final int graphBytes;

  /**
   * Reads a manifest.
   *
   * @throws TacitException UNSIGNED: a field is missing, unknown, of another type, or doesn't fit
   */
  Manifest(Object value) {
    Fields of = new Fields("manifest", value, Reason.UNSIGNED);
    kind = of.text("kind");
    task = of.text("task");
    inputs = tensors(of.list("inputs"));
    outputs = tensors(of.list("outputs"));
    parameters = tensors(of.list("parameters"));
    microbatch = of.whole("microbatch", 1);
    for (Object operator : of.list("operators")) {
      if (!(operator instanceof String)) {
        throw of.wrong("operators");
      }
    }
    graph = of.text("graph");
    graphBytes = of.whole("graph_bytes", 1);
    boolean known = of.whole("version", 1) == 1 && of.whole("opset", 1) == 20;
    of.done();
    boolean step = kind.equals("step");
    String due = "[parameters, inputs, targets, mask" + (step ? ", clip]" : "]");
    known = known && (step || kind.equals("evaluation")) && names(inputs).toString().equals(due);
    known = known && names(outputs).toString().equals(step ? "[sum]" : "[score, loss]");
    if (!known || !graph.matches("[0-9a-f]{64}") || graphBytes > LARGEST_GRAPH) {
      throw of.wrong("kind");
    }
    checkShapes(of, step);
  }

  private void checkShapes(Fields of, boolean step) {
    long size = parameters.stream().mapToLong(Tensor::size).sum();
    boolean fits = size >= 1 && size <= MOST_PARAMETERS && microbatch <= MOST_ROWS;
    fits = fits && size * microbatch <= MOST_NUMBERS && is(inputs.get(0), "float32", size);
    fits = fits && is(inputs.get(3), "bool", microbatch);
    for (Tensor tensor : parameters) {
      fits = fits && tensor.dtype.equals("float32");
    }
    for (Tensor tensor : inputs.subList(1, 3)) {
      fits = fits && tensor.shape.length > 0 && tensor.shape[0] == microbatch;
    }
    if (step) {
      Tensor clip = inputs.get(4);
      fits = fits && clip.shape.length == 0 && clip.dtype.equals("float32");
      fits = fits && is(outputs.get(0), "float64", size);
    } else {
      fits = fits && is(outputs.get(0), "float32", microbatch);
      fits = fits && is(outputs.get(1), "float32", microbatch);
    }
    if (!fits) {
      throw of.wrong("shape");
    }
  }

  private static boolean is(Tensor tensor, String dtype, long size) {
    return tensor.dtype.equals(dtype) && tensor.shape.length == 1 && tensor.shape[0] == size;
  }

  private static List<Tensor> tensors(List<Object> values) {
    List<Tensor> found = new ArrayList<>();
    for (Object value : values) {
      found.add(new Tensor(value));
    }
    return found;
  }

  private static List<String> names(List<Tensor> tensors) {
    List<String> found = new ArrayList<>();
    for (Tensor tensor : tensors) {
      found.add(tensor.name);
    }
    return found;
  }

  /** How many trained numbers there are. */
  public int size() {
    return inputs.get(0).shape[0];
  }

  /**
   * Refuses another graph than the manifest's.
   *
   * @throws TacitException UNSIGNED
   */
  public void check(byte[] data) {
    if (data.length != graphBytes || !Bytes.hex(Crypto.sha256(data)).equals(graph)) {
      throw new TacitException(Reason.UNSIGNED, "the graph isn't the manifest's");
    }
  }
}
