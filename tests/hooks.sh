#!/bin/sh
# nbdev's hooks for git (merge driver for notebooks, trust after a merge) and for Jupyter (clean on save).
# nbdev writes the Jupyter part into the home folder; here it goes into the environment, so that no other project notices.
set -eu
venv=$1
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
GIT_CONFIG_GLOBAL="${GIT_CONFIG_GLOBAL:-$HOME/.gitconfig}" HOME="$home" PATH="$PWD/$venv/bin:$PATH" nbdev_install_hooks
# nbdev calls its tools by bare name, which only an activated environment knows.
git config --local merge.nbdev-merge.driver "$venv/bin/nbdev_merge %O %A %B %P"
printf '#!/bin/sh\n%s/bin/nbdev_trust\n' "$venv" > .git/hooks/post-merge
mkdir -p "$venv/etc/jupyter"
cp "$home"/.jupyter/jupyter_*_config.py "$venv/etc/jupyter/"
