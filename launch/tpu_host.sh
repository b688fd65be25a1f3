#!/usr/bin/env bash
# What each host of a Cloud TPU does when it starts; launch/cloud_tpu.py puts the settings in front, see there.
set -euo pipefail
exec >>/var/log/neuromas_jax.log 2>&1
: "${BUCKET:?}" "${FOLDER:?}" "${REVISION:?}" "${RESTARTS:?}" "${STATUS:?}"  # and the arguments of Python
export HOME="${HOME:-/root}"  # startup scripts have none
mounted=/mnt/neuromas_jax

if ! command -v gcsfuse >/dev/null; then
  echo "deb [signed-by=/usr/share/keyrings/gcsfuse.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" \
    >/etc/apt/sources.list.d/gcsfuse.list
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg -o /usr/share/keyrings/gcsfuse.asc
  apt-get -o DPkg::Lock::Timeout=600 update -qq  # the first boot installs updates of its own
  apt-get -o DPkg::Lock::Timeout=600 install -qq -y gcsfuse
fi
mkdir -p "$mounted"
# A finished checkpoint is a folder that gets its name; without a limit gcsfuse renames none that holds files.
mountpoint -q "$mounted" || gcsfuse --implicit-dirs --rename-dir-limit=1000000 "$BUCKET" "$mounted"
results="$mounted/$FOLDER"

ended() {  # launch/cloud_tpu.py --watch looks for the file; after 75 this TPU is being taken away, and another goes on
  status=$?
  if [ "$status" -eq 75 ]; then return; fi
  mkdir -p "$results/$STATUS"
  echo "$status" >"$results/$STATUS/$(hostname)"
  cp /var/log/neuromas_jax.log "$results/log.$(hostname).txt"
}
trap ended EXIT

code="/opt/neuromas_jax/$REVISION"
if [ ! -f "$code/setup.py" ]; then
  mkdir -p "$code"
  tar -xzf "$results/source/$REVISION.tar.gz" -C "$code"
fi
cd "$code"
python3 -m pip install --quiet uv  # the images' own Python may be older than 3.11
python3 -m uv python install --quiet 3.12
PYTHON="$(python3 -m uv python find 3.12)"
export PYTHON RESTARTS NEUROMAS_PROCESSES=auto
# shellcheck source=launch/environment.sh
source launch/environment.sh tpu
bash launch/repeat.sh "$venv/bin/python" "$@"
