package dev.tacit.edge;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.noise.Encoder;
import dev.tacit.edge.noise.Lattice;
import dev.tacit.edge.noise.Law;
import dev.tacit.edge.noise.Layers;
import dev.tacit.edge.noise.Rotation;
import dev.tacit.edge.noise.Table;
import dev.tacit.edge.wire.Json;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** Against noise.json and encoder.json. */
final class NoiseTest {
  private NoiseTest() {}

  static void testSamples() {
    for (Object item : Check.list(Check.vectors("noise.json"), "samples")) {
      Map<String, Object> one = Json.object(item);
      String law = (String) one.get("law");
      double variance = Check.real(one.get("variance"));
      int size = (int) Check.integer(one.get("size"));
      int[] drawn = Table.of(law, variance).sample(size, Check.hex(one, "key"));
      int[] first = Check.ints(one.get("first"));
      Check.same(law + variance, first, Arrays.copyOf(drawn, first.length));
      byte[] data = new byte[4 * size];
      for (int i = 0; i < size; i++) {
        Bytes.put32(data, 4 * i, drawn[i]);
      }
      Check.same(law + variance, Check.hex(one, "sha256"), Crypto.sha256(data));
    }
  }

  /** The stages that are reached once in 2^45 samples give the same samples. */
  static void testDepths() {
    byte[] key = Crypto.derive("test");
    for (double variance : new double[] {0.4, 50.0, 30_000.0}) {
      Law law = new Law("skellam", variance);
      int[] due = new Table(law, 64).sample(4000, key);
      for (int depth : new int[] {0, 3, 20}) {
        Check.same("depth", due, new Table(law, depth).sample(4000, key));
      }
    }
  }

  static void testLayers() {
    Map<String, Object> one = Check.object(Check.vectors("noise.json"), "layers");
    long[] due = Check.longs(one.get("sum"));
    long[] found = new long[due.length];
    int clients = (int) Check.integer(one.get("clients"));
    int layers = (int) Check.integer(one.get("layers"));
    byte[] chain = Check.hex(one, "chain");
    new Layers("skellam", 1000, clients, layers).add(found, Check.hex(one, "base"), chain);
    Check.same("sum", due, found);
    List<byte[]> seeds = Layers.chain(chain, layers);
    for (int i = 0; i < layers; i++) {
      Check.same("seed", Check.list(one, "seeds").get(i), Bytes.hex(seeds.get(i)));
    }
  }

  static void testEncoder() {
    for (Object item : Check.list(Check.vectors("encoder.json"), "cases")) {
      Map<String, Object> one = Json.object(item);
      Lattice lattice = lattice(Check.object(one, "lattice"));
      double[] values = Check.reals(one.get("values"));
      double bound = Check.real(one.get("bound"));
      byte[] key = Check.hex(one, "key");
      long[] found = Encoder.encode(values, bound, lattice, Check.hex(one, "signs"), key);
      Check.same((String) one.get("name"), Check.longs(one.get("whole")), found);
      Check.near("l2", Check.real(one.get("l2")), lattice.l2(), 1e-12);
      Check.near("record", Check.real(one.get("record_l2")), lattice.recordL2(), 1e-12);
      double squared = Arrays.stream(found).mapToDouble(v -> (double) v * v).sum();
      Check.that("within the bound", squared <= lattice.bound() * lattice.bound());
      values[3] = Double.NaN;
      long[] none = Encoder.encode(values, bound, lattice, Check.hex(one, "signs"), key);
      Check.that("not finite is zero", Arrays.stream(none).allMatch(v -> v == 0));
    }
  }

  private static Lattice lattice(Map<String, Object> of) {
    return new Lattice(
        (int) Check.integer(of.get("dimension")),
        (Boolean) of.get("rotated"),
        (int) Check.integer(of.get("bits")),
        Check.real(of.get("norm")),
        (Boolean) of.get("conditional"),
        Check.real(of.get("variance")),
        Check.real(of.get("record_norm")),
        (int) Check.integer(of.get("vote")));
  }

  static void testRotation() {
    Map<String, Object> one = Check.object(Check.vectors("encoder.json"), "rotation");
    byte[] seed = Rotation.publicSeed("evaluate", 12);
    Check.same("seed", Check.hex(one, "seed"), seed);
    double[] due = Check.reals(one.get("rotated"));
    double[] found = Rotation.rotate(Check.reals(one.get("values")), seed);
    Check.same("length", due.length, found.length);
    for (int i = 0; i < due.length; i++) {
      Check.that("coordinate " + i, Math.abs(due[i] - found[i]) < 1e-12);
    }
  }
}
