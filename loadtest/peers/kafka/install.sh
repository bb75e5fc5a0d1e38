#!/usr/bin/env bash
# Puts Kafka's jars from Maven Central into ./kafka-4.3.1, in the folder it is run in. Needs java (17 or later), mvn, and this
# folder's pom.xml as ./kafka-pom.xml.
set -euo pipefail
command -v java >/dev/null || { echo "java is not installed (Debian: apt-get install openjdk-17-jre-headless)" >&2; exit 1; }
command -v mvn >/dev/null || { echo "mvn is not installed (Debian: apt-get install maven)" >&2; exit 1; }
rm -rf kafka.part
mvn -q -B -f kafka-pom.xml dependency:copy-dependencies -DoutputDirectory="$PWD/kafka.part"
mv kafka.part kafka-4.3.1
