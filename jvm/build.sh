#!/bin/sh
# Builds the agent core and its tests into build/jvm, from Debian's jars, offline.
# build/jvm/classpath is what `java -cp "$(cat build/jvm/classpath)"` needs.
set -eu
cd "$(dirname "$0")/.."
out=build/jvm
jars=
for jar in grpc-api grpc-context grpc-core grpc-netty grpc-protobuf-lite grpc-stub protobuf guava \
  jsr305 error_prone_annotations geronimo-annotation-1.3-spec netty-buffer netty-codec \
  netty-codec-http netty-codec-http2 netty-common netty-handler netty-resolver netty-transport perfmark-api; do
  if [ ! -e "/usr/share/java/$jar.jar" ]; then
    echo "jvm/build.sh: no /usr/share/java/$jar.jar; make jvm installs what is needed" >&2
    exit 1
  fi
  jars="$jars:/usr/share/java/$jar.jar"
done
rm -rf "$out"
mkdir -p "$out/generated" "$out/classes"
protoc -Iprotocol --java_out="lite:$out/generated" \
  --plugin=protoc-gen-grpc-java=/usr/bin/grpc_java_plugin --grpc-java_out="lite:$out/generated" \
  protocol/edge.proto
find "$out/generated" -name '*.java' >"$out/generated.list"
javac --release 11 -nowarn -cp "${jars#:}" -d "$out/classes" "@$out/generated.list" 2>&1 |
  grep -v '^Note:' || true
test -e "$out/classes/dev/tacit/edge/v1/GatewayGrpc.class"
find jvm/src jvm/test -name '*.java' >"$out/sources.list"
javac --release 11 -Xlint:all,-classfile,-processing -Werror -cp "$out/classes$jars" -d "$out/classes" \
  "@$out/sources.list"
printf '%s' "$PWD/$out/classes$jars" >"$out/classpath"
