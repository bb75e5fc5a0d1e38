#!/usr/bin/env bash
# Puts Kafka's jars into ./kafka-4.3.1/ from Maven Central. Run in the folder that holds the peers; needs java (17 or later) and mvn.
set -euo pipefail
command -v java >/dev/null || { echo "java is not installed (Debian: apt-get install openjdk-17-jre-headless)" >&2; exit 1; }
command -v mvn >/dev/null || { echo "mvn is not installed (Debian: apt-get install maven)" >&2; exit 1; }
rm -rf kafka.part
mvn -q -B -f "$PEERS/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$PWD/kafka.part"
mv kafka.part kafka-4.3.1
