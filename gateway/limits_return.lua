-- Ends a lease, and corrects what the call took to what it used; a refused call gives back the request too.
--
-- KEYS: window, tokens, leases; of the account, and of its key where `limits.lua` took from that
-- ARGV: call id, 1 if it was refused, tokens used
local call = ARGV[1]
for at = 3, #KEYS, 3 do
    local window, tokens = KEYS[at - 2], KEYS[at - 1]
    redis.call('ZREM', KEYS[at], call)
    local taken = redis.call('HGET', tokens, call)
    if not taken then
        -- It has left the window.
    elseif ARGV[2] == '1' then
        redis.call('ZREM', window, call)
        redis.call('HDEL', tokens, call)
        redis.call('HINCRBY', tokens, 'total', 0 - taken)
    else
        redis.call('HSET', tokens, call, ARGV[3])
        redis.call('HINCRBY', tokens, 'total', ARGV[3] - taken)
    end
end
