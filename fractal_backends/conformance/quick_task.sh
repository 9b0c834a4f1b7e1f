# A task of which thousands can be run: it starts in a tenth of the time that Python takes, and is all built-ins.
# It appends the image's name to `ran.txt` beside its output file. Then it tells the image the place of its task in the
# workflow; for an image whose name begins with "bad" it prints 2,000 characters instead, and fails.
args=$2 out=$4
folder=${out%/*} order=${out##*/}
order=${order%%[_.]*}
text=
while IFS= read -r line || [ -n "$line" ]; do text="$text$line "; done <"$args"
url=${text#*\"zarr_url\"*\"}
url=${url%%\"*}
echo "${url##*/}" >>"$folder/ran.txt"
case ${url##*/} in bad*)
    printf '%02000d\n' 7
    exit 3
    ;;
esac
printf '{"image_list_updates": [{"zarr_url": "%s", "attributes": {"last": %d}}]}' "$url" "$order" >"$out"
