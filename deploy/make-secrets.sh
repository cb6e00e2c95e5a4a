#!/bin/sh
# Make the secrets that compose.yaml mounts as files, each random, in ./secrets. Those that are there stay.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets config
chmod 700 secrets # the files must be readable to the containers' users; this folder keeps others out
umask 022

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
make() { [ -s "secrets/$1" ] || { cat > "secrets/$1"; echo "made secrets/$1"; }; }

random | make postgres_password
random | make redis_password
random | make web_token
random | make orthanc_password
random | make grafana_password
[ -e secrets/web_oidc_client_secret ] || : >secrets/web_oidc_client_secret # only who signs in by OIDC has one
printf 'postgresql://cxr:%s@postgres:5432/cxr' "$(cat secrets/postgres_password)" | make database_url
printf 'redis://:%s@redis:6379/0' "$(cat secrets/redis_password)" | make broker_url
printf 'requirepass %s\n' "$(cat secrets/redis_password)" | make redis.conf
printf '{"RegisteredUsers": {"orthanc": "%s"}}\n' "$(cat secrets/orthanc_password)" | make orthanc_users.json
printf 'proxy_set_header Authorization "Basic %s";\n' \
  "$(printf 'orthanc:%s' "$(cat secrets/orthanc_password)" | base64 | tr -d '\n')" | make ohif_authorization.conf
