#!/bin/bash
# Runs a command with ROS, the package and its virtual environment in place.
set -e
# shellcheck disable=SC1091
source /opt/venv/bin/activate
# shellcheck disable=SC1091
source /ws/install/setup.bash
exec "$@"
