package dev.tacit.edge;

import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.secagg.Cohort;
import dev.tacit.edge.secagg.Masks;
import dev.tacit.edge.secagg.Probe;
import dev.tacit.edge.secagg.Rules;
import dev.tacit.edge.secagg.Shamir;
import dev.tacit.edge.secagg.Words;
import dev.tacit.edge.wire.Json;
import java.util.List;
import java.util.Map;

/** Against shamir.json, masks.json and graph.json. */
final class SecaggTest {
  private SecaggTest() {}

  static void testShamir() {
    Map<String, Object> all = Check.vectors("shamir.json");
    int[] points = Check.ints(all.get("points"));
    int[] secret = Shamir.words(Check.hex(all, "secret"));
    int threshold = (int) Check.integer(all.get("threshold"));
    int[][] shares = Shamir.share(secret, threshold, points, Check.hex(all, "key"));
    for (int i = 0; i < points.length; i++) {
      Check.same("share", Check.ints(Check.list(all, "shares").get(i)), shares[i]);
      byte[] packed = Bytes.unhex((String) Check.list(all, "packed").get(i));
      Check.same("packed", packed, Shamir.pack(shares[i]));
      Check.same("unpacked", shares[i], Shamir.unpack(packed, secret.length));
    }
    int[][] some = {shares[0], shares[2], shares[4]};
    int[] at = {points[0], points[2], points[4]};
    Check.same("secret", secret, Shamir.reconstruct(at, some));
    int[] odd = Check.ints(all.get("odd"));
    byte[] packed = Check.hex(all, "odd_packed");
    Check.same("odd", packed, Shamir.pack(odd));
    Check.same("odd again", odd, Shamir.unpack(packed, odd.length));
    packed[0] = 1;
    Check.refused("65536 and more", Reason.MALFORMED, () -> Shamir.unpack(packed, odd.length));
    packed[0] = 0;
    packed[packed.length - 1] |= 4;
    Check.refused("a bit too many", Reason.MALFORMED, () -> Shamir.unpack(packed, odd.length));
  }

  static void testMasksAndWords() {
    for (Object item : Check.list(Check.vectors("masks.json"), "cases")) {
      Map<String, Object> one = Json.object(item);
      Words words = new Words((int) Check.integer(one.get("bits")));
      long[] whole = Check.longs(one.get("integers"));
      byte[] packed = Check.hex(one, "packed");
      Check.same("packed", packed, words.pack(words.of(whole)));
      Check.same("back", whole, words.centred(words.unpack(packed, whole.length)));
      int[] mask = new int[(int) Check.integer(one.get("size"))];
      List<byte[]> key = List.of(Check.hex(one, "key"));
      Masks.accumulate(mask, words, key, List.of());
      int[] first = Check.ints(one.get("first"));
      Check.same("first", first, java.util.Arrays.copyOf(mask, first.length));
      Check.same("all", Check.hex(one, "sha256"), Crypto.sha256(words.pack(mask)));
      Masks.accumulate(mask, words, List.of(), key);
      Check.same("nothing is left", new int[mask.length], mask);
      Check.refused("short", Reason.MALFORMED, () -> words.unpack(packed, 3));
    }
    byte[] padded = {0, 0, 16, 0, 0};
    Check.refused("padding", Reason.MALFORMED, () -> new Words(20).unpack(padded, 1));
  }

  static void testGraph() {
    Map<String, Object> all = Check.vectors("graph.json");
    for (Object item : Check.list(all, "choices")) {
      Map<String, Object> one = Json.object(item);
      int[] found =
          Probe.choice(
              (int) Check.integer(one.get("size")),
              (int) Check.integer(one.get("corrupted")),
              Check.real(one.get("dropout")));
      int[] due = {
        (int) Check.integer(one.get("degree")),
        (int) Check.integer(one.get("threshold")),
        (int) Check.integer(one.get("side"))
      };
      Check.same("choice", due, found);
    }
    Map<String, Object> sides = Check.object(all, "sides");
    int[][] found = Probe.sides(17, 400, 60, Check.hex(all, "seed"));
    Check.same("before", Check.ints(sides.get("before")), found[0]);
    Check.same("after", Check.ints(sides.get("after")), found[1]);
  }

  static void testCohort() {
    Map<String, Object> all = Check.vectors("graph.json");
    Rules rules = new Rules(5, 60, 0.3, 1);
    Cohort cohort = new Cohort(Check.hex(all, "roster"), rules);
    Check.same("digest", Check.hex(all, "digest"), cohort.digest);
    Check.same("threshold", Check.integer(all.get("threshold")), (long) cohort.threshold);
    Check.same("layers", Check.integer(all.get("layers")), (long) cohort.layers);
    Check.same("words", Check.integer(all.get("words")), (long) cohort.words());
    Check.same("fewest", Check.integer(all.get("fewest")), (long) cohort.fewest());
    Check.same(
        "survivors", Check.integer(all.get("survivors")), (long) rules.survivors(cohort.size()));
    Check.refused("collusion", Reason.PLAN, () -> new Rules(6, 60, 0.3, 2));
  }
}
