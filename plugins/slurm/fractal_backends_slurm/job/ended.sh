# Note how unit $fb_before ended, in the words of $fb_ended, and end what it left: the processes of $fb_left, and what is
# in its group, whose number is in a file.
# What was refused has no group, and no end.
for fb_pid in $fb_left; do kill -s KILL "$fb_pid" 2>/dev/null; done
read -r fb_now fb_rest </proc/uptime
fb_tries=0 fb_half=
fb_wait() { # for a folder that is away or full, which may be for a moment only
    fb_tries=$((fb_tries + 1))
    if [ "$fb_tries" -gt 10 ]; then return 1; fi
    sleep 1
}
while [ -n "$fb_ended" ] && [ ! -d "$fb_folder" ] && fb_wait; do :; done
if [ -n "$fb_ended" ] && read -r fb_group 2>/dev/null <"$fb_receipt.$fb_start"; then
    kill -s KILL -- "-$fb_group" 2>/dev/null
    fb_output=0
    if [ -e "$fb_place/$fb_before.metadiff.json" ] || [ -L "$fb_place/$fb_before.metadiff.json" ]; then fb_output=1; fi
    while ! echo "${fb_half}ended $fb_before $fb_now $fb_ended $fb_output" >>"$fb_receipt" && fb_wait; do
        fb_half="
" # half of it may have been written
    done
fi
