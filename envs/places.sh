# Sourced by the install scripts: `arguments` tells uv where pip is configured to look (mirrors, local wheels).
configured() { .venv/bin/python -m pip config list | sed -n "s/^.*[.]$1='\(.*\)'\$/\1/p" | tail -n 1; }
links=$(configured find-links); index=$(configured index-url); extra=$(configured extra-index-url)
arguments=()
for link in $links; do arguments+=(--find-links "$link"); done
[ -z "$index" ] || arguments+=(--default-index "$index")
# pip looks in all indexes for the best version; uv must be told to.
for address in $extra; do arguments+=(--index "$address"); done
[ -z "$extra" ] || arguments+=(--index-strategy unsafe-best-match)
