# Become the unit $fb_label; what follows `ended.sh` in the shell that a compute node runs between two units.
# Set before this: fb_folder, fb_receipt, fb_host, fb_start, fb_place, fb_umask, fb_limit, and the task's command as "$@".
fb_stem=$fb_place/$fb_label
# SLURM ends the processes of a job one by one: after a unit that was killed, this shell may be next. It starts nothing then.
case $fb_ended in
"0 9 "* | "0 15 "*)
    sleep 1
    read -r fb_now fb_rest </proc/uptime
    ;;
esac
fb_refuse() {
    echo "refused $fb_label $fb_now $1" >>"$fb_receipt"
    { true >|"$fb_receipt.$fb_start"; } 2>/dev/null # ":" would end a shell that cannot
    exit 0
}
# The log is the claim: made by one job only, so that a unit starts at most once, whatever the scheduler does.
if [ -e "$fb_stem.log" ] || [ -L "$fb_stem.log" ]; then fb_refuse claimed; fi
# SLURM may know nothing of this job, or not reach it, when it is cancelled or its unit is submitted again.
if [ -e "$fb_folder/cancelled" ] || [ -e "$fb_folder/$fb_label.cancelled" ]; then fb_refuse cancelled; fi
umask 077
set -C
{ true >"$fb_stem.log"; } 2>/dev/null || {
    if [ -e "$fb_stem.log" ]; then fb_refuse claimed; fi
    fb_why=$({ true >"$fb_stem.log"; } 2>&1)
    fb_refuse "log ${fb_why##*: }"
}
set +C
if [ -e "$fb_stem.metadiff.json" ]; then rm -f "$fb_stem.metadiff.json"; fi
case $1 in
*/*) [ -f "$1" ] && [ -x "$1" ] ;;
*) command -v "$1" >/dev/null 2>&1 ;;
esac || fb_refuse command
# The group's file is written over rather than anew: to empty a file that has just been written is what takes long.
{ echo "$$" 1<>"$fb_receipt.$fb_start" && echo "started $fb_label $fb_host $fb_now" >>"$fb_receipt"; } || {
    rm -f "$fb_stem.log" # a claim of which nothing is known would leave the unit lost, although it was not started
    fb_refuse receipt
}
exec </dev/null >>"$fb_stem.log" 2>&1
umask "$fb_umask"
set -- "$@" --args-json "$fb_stem.args.json" --out-json "$fb_stem.metadiff.json"
# Both make the unit the leader of a process group whose number is this shell's.
if [ -n "$fb_limit" ]; then exec timeout -k 5 "$fb_limit" "$@"; else exec setsid "$@"; fi
