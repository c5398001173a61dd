#!/usr/bin/env bash
# Converts an exported model with TF-TRT in NVIDIA's container.
#
#   serving/tensorrt/convert.sh SAVED_MODEL OUTPUT [options of convert.py]
#   serving/tensorrt/convert.sh saved_models/stylize trt/stylize/1 --precision float16
#
# Needs Docker, the NVIDIA Container Toolkit and a GPU of the kind that will serve the model.
# IMAGE names another image, DOCKER another command such as podman.
set -euo pipefail

IMAGE=${IMAGE:-nvcr.io/nvidia/tensorflow:25.02-tf2-py3}
DOCKER=${DOCKER:-docker}
# Without their dependencies: the image's NumPy is the one that its TensorFlow was built for.
PACKAGES="pydicom nibabel python-gdcm pylibjpeg pylibjpeg-openjpeg pylibjpeg-rle
          scipy filelock importlib_resources typing_extensions packaging"

if [ $# -lt 2 ] || [ "${1#-}" != "$1" ] || [ "${2#-}" != "$2" ]; then
    echo "usage: $0 SAVED_MODEL OUTPUT [--precision float32|float16] [--size N]" \
         "[--signature NAME] [--compare SCANS]" >&2
    exit 2
fi
if [ ! -d "$1" ]; then
    echo "$0: $1: no such folder; export a model with: tfstyle export" >&2
    exit 2
fi
if ! command -v "$DOCKER" > /dev/null; then
    echo "$0: $DOCKER is not on PATH; install Docker and the NVIDIA Container Toolkit" >&2
    exit 1
fi

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
saved_model=$(cd "$1" && pwd)
mkdir -p "$(dirname "$2")"
parent=$(cd "$(dirname "$2")" && pwd)
output=$parent/$(basename "$2")
shift 2

# Every path has the same name inside.
mounts=(-v "$root:/tfstyle:ro" -v "$saved_model:$saved_model:ro" -v "$parent:$parent")
options=()
for option in "$@"; do
    if [ -e "$option" ]; then
        option=$(cd "$(dirname "$option")" && pwd)/$(basename "$option")
        mounts+=(-v "$option:$option:ro")
    fi
    options+=("$option")
done

exec "$DOCKER" run --rm --gpus all --user "$(id -u):$(id -g)" "${mounts[@]}" \
    -e HOME=/tmp -e PYTHONPATH=/tmp/packages:/tfstyle -e "PACKAGES=$PACKAGES" "$IMAGE" \
    bash -c 'pip install --quiet --no-deps --target /tmp/packages $PACKAGES &&
             exec python /tfstyle/serving/tensorrt/convert.py "$@"' \
    convert "$saved_model" "$output" "${options[@]}"
