package dev.tacit.edge.wire;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/**
 * A message of tacit's protocol in bytes and back: "TCT1".
 *
 * <p>{@code "TCT1"}, the header's length (uint32, little-endian), the header (canonical JSON:
 * kind, fields, and name and length of each array), the arrays' bytes in the header's order.
 * What is decoded is encoded again to the same bytes; every other encoding is refused, as is an
 * unknown kind, field or length. `tacit.privacy.messages` in Python; tests/vectors/messages.json.
 */
public final class Message {
  private static final byte[] MAGIC = Bytes.utf8("TCT1");

  private final Kind kind;
  private final Map<String, Object> fields;
  private final Map<String, byte[]> arrays;

  Message(Kind kind, Map<String, Object> fields, Map<String, byte[]> arrays) {
    this.kind = kind;
    this.fields = Collections.unmodifiableMap(fields);
    this.arrays = Collections.unmodifiableMap(arrays);
  }

  /** A message with values given, in the order of {@link Kind#fields} and {@link Kind#arrays}. */
  public static Message of(Kind kind, Object... values) {
    Map<String, Object> fields = new TreeMap<>();
    Map<String, byte[]> arrays = new LinkedHashMap<>();
    int next = 0;
    for (Map.Entry<String, Kind.Type> field : kind.fields().entrySet()) {
      Object value = values[next++];
      Kind.Type type = field.getValue();
      if (type == Kind.Type.BYTES || type == Kind.Type.VECTOR) {
        arrays.put(field.getKey(), (byte[]) value);
      } else {
        fields.put(
            field.getKey(),
            value instanceof String ? value : Json.Number.of(((Number) value).longValue()));
      }
    }
    if (next != values.length) {
      throw new IllegalArgumentException("too many values for a " + kind.label());
    }
    return new Message(kind, fields, arrays);
  }

  /**
   * Reads a message of a kind.
   *
   * @throws TacitException MALFORMED: the bytes aren't exactly one message of this kind
   */
  public static Message decode(Kind kind, byte[] data) {
    if (data.length < 8 || !Arrays.equals(Bytes.slice(data, 0, 4), MAGIC)) {
      throw TacitException.malformed("not a message of tacit's protocol");
    }
    long length = Bytes.u32(data, 4);
    if (data.length < 8 + length) {
      throw TacitException.malformed("message header is cut short");
    }
    Map<String, Object> header = Json.canonical(Bytes.slice(data, 8, (int) length));
    if (!header.keySet().equals(Set.of("arrays", "fields", "kind"))) {
      throw TacitException.malformed("message header should have kind, fields and arrays");
    }
    if (!kind.label().equals(header.get("kind"))) {
      throw TacitException.malformed("message kind=" + header.get("kind") + " is another than due");
    }
    Map<String, Object> fields = Json.object(header.get("fields"));
    checkFields(kind, fields);
    Map<String, byte[]> arrays = arrays(kind, Json.list(header.get("arrays")), data, 8 + length);
    return new Message(kind, fields, arrays);
  }

  private static void checkFields(Kind kind, Map<String, Object> fields) {
    int scalars = 0;
    for (Map.Entry<String, Kind.Type> due : kind.fields().entrySet()) {
      Object value = fields.get(due.getKey());
      boolean fits = true;
      switch (due.getValue()) {
        case INT:
          fits = value instanceof Json.Number && ((Json.Number) value).whole();
          fits = fits && ((Json.Number) value).integer() >= 0;
          break;
        case FLOAT:
          fits = value instanceof Json.Number && canonical((Json.Number) value);
          break;
        case TEXT:
          fits = value instanceof String;
          break;
        default:
          scalars--;
      }
      scalars++;
      if (!fits) {
        throw TacitException.malformed("message field " + due.getKey() + " doesn't fit");
      }
    }
    if (fields.size() != scalars) {
      throw TacitException.malformed("message has unknown fields");
    }
  }

  private static boolean canonical(Json.Number number) {
    double value = number.real();
    return !Double.isInfinite(value) && Json.real(value).equals(number.digits);
  }

  private static Map<String, byte[]> arrays(
      Kind kind, List<Object> layout, byte[] data, long offset) {
    Map<String, byte[]> found = new LinkedHashMap<>();
    List<String> names = new ArrayList<>();
    for (Object item : layout) {
      Map<String, Object> array = Json.object(item);
      Object name = array.get("name");
      Object length = array.get("length");
      if (array.size() != 2
          || !(length instanceof Json.Number)
          || !((Json.Number) length).whole()
          || !(name instanceof String)) {
        throw TacitException.malformed("message header is malformed");
      }
      Kind.Type type = kind.fields().get(name);
      long size = ((Json.Number) length).integer() * (type == Kind.Type.VECTOR ? 4 : 1);
      if (type == null || size < 0 || offset + size > data.length) {
        throw TacitException.malformed("message array=" + name + " is unknown or cut short");
      }
      names.add((String) name);
      found.put((String) name, Bytes.slice(data, (int) offset, (int) size));
      offset += size;
    }
    if (!names.equals(kind.arrays()) || offset != data.length) {
      throw TacitException.malformed("message arrays aren't exactly those of a " + kind.label());
    }
    return found;
  }

  /** The message in bytes. */
  public byte[] encode() {
    List<Object> layout = new ArrayList<>();
    List<byte[]> parts = new ArrayList<>();
    for (Map.Entry<String, byte[]> array : arrays.entrySet()) {
      boolean vector = kind.fields().get(array.getKey()) == Kind.Type.VECTOR;
      Map<String, Object> said = new TreeMap<>();
      said.put("name", array.getKey());
      said.put("length", Json.Number.of(array.getValue().length / (vector ? 4 : 1)));
      layout.add(said);
      parts.add(array.getValue());
    }
    Map<String, Object> header = new TreeMap<>();
    header.put("kind", kind.label());
    header.put("fields", fields);
    header.put("arrays", layout);
    byte[] head = Json.write(header);
    byte[] length = new byte[4];
    Bytes.put32(length, 0, head.length);
    parts.addAll(0, Arrays.asList(MAGIC, length, head));
    return Bytes.join(parts.toArray(new byte[0][]));
  }

  /** SHA-256 of the message in bytes. */
  public byte[] digest() {
    return Crypto.sha256(encode());
  }

  /** Its kind. */
  public Kind kind() {
    return kind;
  }

  /** A text field. */
  public String text(String name) {
    return (String) fields.get(name);
  }

  /** A field that is a whole number. */
  public long integer(String name) {
    return ((Json.Number) fields.get(name)).integer();
  }

  /** A field that is a number. */
  public double real(String name) {
    return ((Json.Number) fields.get(name)).real();
  }

  /** An array's bytes; not to be changed. */
  public byte[] bytes(String name) {
    return arrays.get(name);
  }

  /** A vector of single precision. */
  public float[] vector(String name) {
    byte[] data = arrays.get(name);
    float[] out = new float[data.length / 4];
    for (int i = 0; i < out.length; i++) {
      out[i] = Float.intBitsToFloat((int) Bytes.u32(data, 4 * i));
    }
    return out;
  }

  /** The message with another array. */
  public Message with(String name, byte[] value) {
    Map<String, byte[]> changed = new LinkedHashMap<>(arrays);
    changed.put(name, value);
    return new Message(kind, fields, changed);
  }

  /** The message with another whole number; other numbers keep their digits. */
  public Message with(String name, long value) {
    Map<String, Object> changed = new TreeMap<>(fields);
    changed.put(name, Json.Number.of(value));
    return new Message(kind, changed, arrays);
  }
}
