# Note how unit $fb_before ended, in the words of $fb_ended, and end what it left: the processes of $fb_left, and what is
# in its group, whose number is in a file.
# What was refused has no group, and no end.
for fb_pid in $fb_left; do kill -s KILL "$fb_pid" 2>/dev/null; done
read -r fb_now fb_rest </proc/uptime
if [ -n "$fb_ended" ] && read -r fb_group 2>/dev/null <"$fb_receipt.$fb_start"; then
    kill -s KILL -- "-$fb_group" 2>/dev/null
    fb_output=0
    if [ -e "$fb_place/$fb_before.metadiff.json" ] || [ -L "$fb_place/$fb_before.metadiff.json" ]; then fb_output=1; fi
    echo "ended $fb_before $fb_now $fb_ended $fb_output" >>"$fb_receipt"
fi
