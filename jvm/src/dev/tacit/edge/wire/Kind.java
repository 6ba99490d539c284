package dev.tacit.edge.wire;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The kinds of messages, with the names and types of their fields, in the order of declaration. */
public enum Kind {
  TRAIN_REQUEST("train-request", Kind.REQUEST),
  EVALUATE_REQUEST("evaluate-request", Kind.REQUEST),
  INVITATION("invitation", "purpose:text plan:text task:text"),
  ADVERTISEMENT("advertisement", Kind.ANSWER + " channel:bytes mask:bytes"),
  ROSTER("roster", "session:text entries:bytes"),
  SHARES("shares", Kind.ANSWER + " ciphertexts:bytes commitments:bytes"),
  MASKED("masked", Kind.ANSWER + " members:bytes words:bytes"),
  SURVIVORS("survivors", "session:text members:bytes"),
  CONFIRMATION("confirmation", Kind.ANSWER + " agreed:bytes"),
  REVEAL("reveal", "session:text confirmations:bytes ciphertexts:bytes"),
  REVEALED("revealed", Kind.ANSWER + " shares:bytes");

  private static final String REQUEST =
      "plan:text frozen:text clip:float clients:int members:bytes parameters:vector";
  private static final String ANSWER = "session:text client:int signature:bytes";

  private final String label;
  private final Map<String, Type> fields;

  Kind(String label, String rest) {
    this.label = label;
    Map<String, Type> found = new LinkedHashMap<>();
    for (String part : ("run:text round:int attempt:int " + rest).split(" ")) {
      String[] halves = part.split(":");
      found.put(halves[0], Type.valueOf(halves[1].toUpperCase(java.util.Locale.ROOT)));
    }
    fields = Collections.unmodifiableMap(found);
  }

  /** What a field holds. */
  public enum Type {
    TEXT,
    INT,
    FLOAT,
    BYTES,
    VECTOR
  }

  /** The kind's name in a header. */
  public String label() {
    return label;
  }

  /** Every field's type. */
  public Map<String, Type> fields() {
    return fields;
  }

  /** The names of those that are arrays. */
  public List<String> arrays() {
    List<String> found = new ArrayList<>();
    for (Map.Entry<String, Type> field : fields.entrySet()) {
      if (field.getValue() == Type.BYTES || field.getValue() == Type.VECTOR) {
        found.add(field.getKey());
      }
    }
    return found;
  }
}
