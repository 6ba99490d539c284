package dev.tacit.edge;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.wire.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** What the tests compare with, and how: golden vectors, and failures that say both sides. */
final class Check {
  private Check() {}

  /** A file of golden vectors, from the folder that the system property names. */
  static Map<String, Object> vectors(String name) {
    try {
      Path folder = Paths.get(System.getProperty("tacit.vectors", "tests/vectors"));
      return Json.object(Json.read(Files.readAllBytes(folder.resolve(name))));
    } catch (IOException error) {
      throw new AssertionError("no golden vectors: " + error, error);
    }
  }

  static Map<String, Object> object(Map<String, Object> of, String name) {
    return Json.object(of.get(name));
  }

  static List<Object> list(Map<String, Object> of, String name) {
    return Json.list(of.get(name));
  }

  static byte[] hex(Map<String, Object> of, String name) {
    return Bytes.unhex((String) of.get(name));
  }

  static long integer(Object number) {
    return ((Json.Number) number).integer();
  }

  static double real(Object number) {
    return ((Json.Number) number).real();
  }

  static int[] ints(Object list) {
    return Json.list(list).stream().mapToInt(n -> (int) integer(n)).toArray();
  }

  static long[] longs(Object list) {
    return Json.list(list).stream().mapToLong(Check::integer).toArray();
  }

  static double[] reals(Object list) {
    return Json.list(list).stream().mapToDouble(Check::real).toArray();
  }

  static void same(String what, byte[] due, byte[] found) {
    same(what, Bytes.hex(due), Bytes.hex(found));
  }

  static void same(String what, int[] due, int[] found) {
    same(what, Arrays.toString(due), Arrays.toString(found));
  }

  static void same(String what, long[] due, long[] found) {
    same(what, Arrays.toString(due), Arrays.toString(found));
  }

  static void same(String what, Object due, Object found) {
    if (!Objects.equals(due, found)) {
      throw new AssertionError(what + ": due " + due + "\n  found " + found);
    }
  }

  static void near(String what, double due, double found, double relative) {
    if (!(Math.abs(due - found) <= relative * Math.max(1e-9, Math.abs(due)))) {
      throw new AssertionError(what + ": due " + due + ", found " + found);
    }
  }

  static void that(String what, boolean holds) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  /** That something is refused, for this reason. */
  static void refused(String what, TacitException.Reason reason, Runnable act) {
    try {
      act.run();
    } catch (TacitException error) {
      same(what, reason, error.reason());
      return;
    }
    throw new AssertionError(what + " wasn't refused");
  }
}
