# What a compute node does between two units, in one shell: note how the unit before ended, then become the next one.
# Set before this: fb_before and fb_ended (label of the unit before, how it ended), fb_label (the next one), fb_folder,
# fb_place, fb_umask, fb_limit, and the task's command as "$@".
fb_receipt=$fb_folder/${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.receipt
fb_pid=$fb_receipt.$PPID
read -r fb_now fb_rest </proc/uptime
# What was refused has no group, and no end.
if [ -n "$fb_before" ] && read -r fb_group 2>/dev/null <"$fb_pid"; then
    kill -s KILL -- "-$fb_group" 2>/dev/null
    fb_output=0
    if [ -e "$fb_place/$fb_before.metadiff.json" ] || [ -L "$fb_place/$fb_before.metadiff.json" ]; then fb_output=1; fi
    echo "ended $fb_before $fb_now $fb_ended $fb_output" >>"$fb_receipt"
fi
[ -n "$fb_label" ] || exit 0
fb_stem=$fb_place/$fb_label
fb_refuse() {
    echo "refused $fb_label $fb_now $1" >>"$fb_receipt"
    : >"$fb_pid"
    exit 0
}
# The log is the claim: made by one job only, so that a unit starts at most once, whatever the scheduler does.
if [ -e "$fb_stem.log" ] || [ -L "$fb_stem.log" ]; then fb_refuse claimed; fi
umask 077
set -C
{ true >"$fb_stem.log"; } 2>/dev/null || {
    if [ -e "$fb_stem.log" ]; then fb_refuse claimed; else fb_refuse log; fi
}
set +C
if [ -e "$fb_stem.metadiff.json" ]; then rm -f "$fb_stem.metadiff.json"; fi
case $1 in
*/*) [ -f "$1" ] && [ -x "$1" ] ;;
*) command -v "$1" >/dev/null 2>&1 ;;
esac || fb_refuse command
{ echo "$$" >"$fb_pid" && echo "started $fb_label $fb_now" >>"$fb_receipt"; } || exit 0
exec </dev/null >>"$fb_stem.log" 2>&1
umask "$fb_umask"
set -- "$@" --args-json "$fb_stem.args.json" --out-json "$fb_stem.metadiff.json"
# Both make the unit the leader of a process group whose number is this shell's.
if [ -n "$fb_limit" ]; then exec timeout -k 5 "$fb_limit" "$@"; else exec setsid "$@"; fi
