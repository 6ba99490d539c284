package dev.tacit.edge.policy;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.wire.Json;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A JSON object that is read field by field, each of its type, none left over. */
final class Fields {
  private final String name;
  private final Map<String, Object> held;
  private final Set<String> read = new HashSet<>();
  private final Reason reason;

  /** An object; what is wrong with it is refused for this reason. */
  Fields(String name, Object value, Reason reason) {
    if (!(value instanceof Map)) {
      throw new TacitException(reason, name + " should have fields of its own");
    }
    this.name = name;
    this.reason = reason;
    held = Json.object(value);
  }

  TacitException wrong(String field) {
    return new TacitException(reason, name + "." + field + " isn't what it should be");
  }

  private Object take(String field) {
    read.add(field);
    if (!held.containsKey(field)) {
      throw wrong(field);
    }
    return held.get(field);
  }

  /** Whether a field, which has to be there, isn't null. */
  boolean given(String field) {
    return take(field) != null;
  }

  /** Whether a field is there. */
  boolean has(String field) {
    read.add(field);
    return held.get(field) != null;
  }

  String text(String field) {
    Object value = take(field);
    if (!(value instanceof String)) {
      throw wrong(field);
    }
    return (String) value;
  }

  boolean truth(String field) {
    Object value = take(field);
    if (!(value instanceof Boolean)) {
      throw wrong(field);
    }
    return (Boolean) value;
  }

  int whole(String field, int least) {
    Object value = take(field);
    boolean fits = value instanceof Json.Number && ((Json.Number) value).whole();
    long found = fits ? ((Json.Number) value).integer() : -1;
    if (found < least || found > Integer.MAX_VALUE) {
      throw wrong(field);
    }
    return (int) found;
  }

  double real(String field) {
    Object value = take(field);
    if (!(value instanceof Json.Number)) {
      throw wrong(field);
    }
    double found = ((Json.Number) value).real();
    if (Double.isInfinite(found)) {
      throw wrong(field);
    }
    return found;
  }

  double positive(String field) {
    double found = real(field);
    if (!(found > 0)) {
      throw wrong(field);
    }
    return found;
  }

  double nonnegative(String field) {
    double found = real(field);
    if (!(found >= 0)) {
      throw wrong(field);
    }
    return found;
  }

  /** A number in (0, 1]. */
  double rate(String field) {
    double found = positive(field);
    if (found > 1) {
      throw wrong(field);
    }
    return found;
  }

  List<Object> list(String field) {
    Object value = take(field);
    if (!(value instanceof List)) {
      throw wrong(field);
    }
    return Json.list(value);
  }

  /** An object of its own, or null. */
  Fields optional(String field) {
    Object value = take(field);
    return value == null ? null : new Fields(name + "." + field, value, reason);
  }

  /** An object as it is. */
  Object raw(String field) {
    return take(field);
  }

  /** Refuses fields that nobody asked for: another tacit's, or a misspelt limit. */
  void done() {
    for (String field : held.keySet()) {
      if (!read.contains(field)) {
        throw new TacitException(reason, name + "." + field + " is unknown");
      }
    }
  }
}
